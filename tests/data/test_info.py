"""What `info` says of a data set, and what it finds wrong."""

import subprocess
import sys

import numpy as np
import pytest

from jaxsd.data.columns import ColumnType, create_columns, write_columns
from jaxsd.data.info import info

SIZE, EOS = 30, 9


def columns(first: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(first)
    vectors = rng.normal(size=(2, SIZE, 64))
    text, image = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float16)
    return {
        "audio": rng.integers(-9, 9, (SIZE, 16_000)).astype(np.int16),
        "text": text,
        "image": image,
        "tokens": np.full((SIZE, 77), EOS, np.int32),
        "latents": rng.normal(size=(SIZE, 8, 8, 4)).astype(np.float16),
        "row": np.arange(first, first + SIZE),
        "class": np.arange(SIZE, dtype=np.int32) % 2,
    }


METADATA = {"clip": "toy", "eos_token_id": EOS, "rows": SIZE + 2, "skipped": 2, "classes": ["bell", "dog"]}


def test_info_lists_what_is_there(tmp_path, capsys):
    for index, split in enumerate(("train", "test")):
        write_columns(tmp_path / split, columns(index * SIZE), METADATA)
    info(tmp_path)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    printed = " ".join(shown.split())
    assert "train 30 2 audio int16 16000 960.1 kB class int32 1 248 bytes image float16 64 4.0 kB latents" in printed
    assert "latents float16 8 x 8 x 4 15.5 kB" in printed
    assert "test 30 2 audio" in printed and "clip toy, eos_token_id 9, classes 2" in printed
    info(tmp_path / "test")


def put(name, row, value):
    def damage(columns, metadata):
        columns[name][row] = value

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (put("text", 3, np.nan), r"test/text\.npy: example 3 is not finite"),
        (put("image", 4, 0), r"test/image\.npy: example 4 is not of norm 1"),
        (put("latents", 29, np.inf), r"test/latents\.npy: example 29 is not finite"),
        (put("tokens", 5, 0), r"test/tokens\.npy: example 5 has no end-of-text token \(9\)"),
        (put("audio", slice(None), 0), r"test/audio\.npy: every clip is silent"),
        (put("row", 6, 7), r"row 7 of the manifest is there 2 times in .*train, .*test"),
        (put("class", 6, 2), r"test/class\.npy: example 6 is not one of the 2 classes"),
        (
            lambda columns, metadata: metadata.pop("classes"),
            r"test/dataset\.json lists no classes, but there is a column class",
        ),
        (
            lambda columns, metadata: columns.pop("class"),
            r"test/dataset\.json lists classes, but there is no column class",
        ),
        (lambda columns, metadata: columns.pop("text"), r"test has no column text"),
        (
            lambda columns, metadata: columns.update(audio=columns["audio"] / 2),
            r"audio\.npy is float64 of 2 axes; it must",
        ),
        (
            lambda columns, metadata: columns.update(text=columns["text"][:, 1:]),
            r"text is \(30, 63\) and image \(30, 64\)",
        ),
        (
            lambda columns, metadata: metadata.update(clip="b"),
            r"test/dataset\.json: clip is 'b', but 'toy' in .*train/dataset",
        ),
        (
            lambda columns, metadata: metadata.update(skipped=1),
            r"30 examples and 1 skipped are not 32 rows of the source",
        ),
    ],
)
def test_info_names_what_is_wrong(tmp_path, damage, message):
    write_columns(tmp_path / "train", columns(0), METADATA)
    damaged, metadata = columns(SIZE), dict(METADATA)
    damage(damaged, metadata)
    write_columns(tmp_path / "test", damaged, metadata)
    with pytest.raises(ValueError, match=message):
        info(tmp_path)


def test_info_ends_in_one_sentence_and_status_2(tmp_path):
    create_columns(tmp_path / "train", 3, {"text": ColumnType(np.float16, (4,))})
    command = [sys.executable, "-m", "jaxsd.data", "info", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        f"python -m jaxsd.data: {tmp_path}: no data set here (no dataset.json, nor one in train, validation, test)\n"
    )
