"""Columns written in place, and what is left of them where rows are bad."""

import hashlib
import json
import os

import numpy as np
import pytest

from jaxsd.data import columns
from jaxsd.data.columns import (
    ColumnType,
    create_columns,
    finish_columns,
    open_columns,
    verify_columns,
    write_columns,
    write_examples,
)

SIZE = 1000
BAD = np.array([0, 5, 6, 640, 990, 998, 999])
VALUES = {
    "row": np.arange(SIZE),
    "text": np.arange(SIZE * 3, dtype=np.float16).reshape(SIZE, 3) % 2048,
    "tokens": np.arange(SIZE * 2, dtype=np.int32).reshape(SIZE, 2),
}


def begin(folder):
    create_columns(folder, SIZE, {name: ColumnType(values.dtype, values.shape[1:]) for name, values in VALUES.items()})
    for first in (600, 0, 300, 900):  # any order
        write_examples(folder, first, {name: values[first : first + 300] for name, values in VALUES.items()})


def check(folder):
    there = open_columns(folder)
    good = np.delete(np.arange(SIZE), BAD)
    assert np.array_equal(np.sort(there["row"]), good)
    for name, values in VALUES.items():
        np.testing.assert_array_equal(there[name], values[there["row"]])
        assert there[name].dtype == values.dtype
    assert json.loads((folder / "dataset.json").read_text()) == {
        "size": len(good),
        "columns": sorted(VALUES),
        "sha256": {name: hashlib.sha256(values[there["row"]].tobytes()).hexdigest() for name, values in VALUES.items()},
        "seed": 3,
    }


def test_bad_rows_are_taken_out(tmp_path):
    begin(tmp_path)
    assert not (tmp_path / "dataset.json").exists()
    finish_columns(tmp_path, VALUES, SIZE, BAD, {"seed": 3})
    check(tmp_path)


def test_taking_bad_rows_out_may_be_stopped_anywhere(tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    begin(tmp_path)
    monkeypatch.setattr(columns, "MOVED", 2)
    places = [(os, "truncate"), (np.lib.format, "write_array_header_1_0"), (columns, "write_json")]
    stopped = 0
    for after in range(4):
        for module, name in places:
            calls, real = 0, getattr(module, name)

            def stop(*arguments, real=real, after=after):
                nonlocal calls
                calls += 1
                if calls > after:
                    raise Stop
                return real(*arguments)

            with monkeypatch.context() as patch:
                patch.setattr(module, name, stop)
                try:
                    finish_columns(tmp_path, VALUES, SIZE, BAD, {"seed": 3})
                except Stop:
                    stopped += 1
    assert stopped >= 5
    finish_columns(tmp_path, VALUES, SIZE, BAD, {"seed": 3})
    check(tmp_path)


def test_rows_that_do_not_fit_are_refused(tmp_path):
    begin(tmp_path)
    for first, rows in ((999, np.zeros((2, 3), np.float16)), (0, np.zeros((2, 4), np.float16)), (0, np.zeros((2, 3)))):
        with pytest.raises(ValueError, match=r"text\.npy: .* does not fit"):
            write_examples(tmp_path, first, {"text": rows})


def test_a_full_disk_is_named_with_the_file(tmp_path, monkeypatch):
    begin(tmp_path)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*text\.npy"):
        write_examples(tmp_path, 0, {"text": VALUES["text"]})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "dataset.json").unlink(), r"dataset\.json: no such file"),
        (lambda folder: (folder / "text.npy").unlink(), r"text\.npy: missing, though .*dataset\.json lists it"),
        (lambda folder: os.truncate(folder / "text.npy", 5000), r"text\.npy is damaged \(mmap length is greater"),
        (lambda folder: os.truncate(folder / "text.npy", 0), r"text\.npy is damaged"),
        (lambda folder: np.save(folder / "text.npy", np.zeros((3, 3))), r"text\.npy: 3 examples, expected 1000"),
    ],
)
def test_damage_is_named(tmp_path, damage, message):
    write_columns(tmp_path, VALUES, {})
    assert all(np.array_equal(column, VALUES[name]) for name, column in open_columns(tmp_path).items())
    damage(tmp_path)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        open_columns(tmp_path)


ONES = np.ones((3, 4), np.float16)
AUDIO = np.ones((3, 16_000), np.int16)


@pytest.mark.parametrize(
    ("column", "metadata", "message"),
    [
        ({"audio": AUDIO.astype(np.float32)}, {}, r"audio\.npy is float32 of 2 axes; it must be int16 of 2"),
        ({"audio": AUDIO.astype(">i2")}, {}, r"audio\.npy is >i2 of 2 axes"),
        ({"audio": AUDIO[:, :8000]}, {}, r"audio\.npy has 8000 samples a clip; it must have 16000"),
        ({"latents": ONES}, {}, r"latents\.npy is float16 of 2 axes; it must be float16 of 4"),
        ({"text": ONES, "image": ONES[:, :2]}, {}, r"text is \(3, 4\) and image \(3, 2\); they must agree"),
        ({"class": np.arange(3, dtype=np.int32)}, {}, "lists no classes, but there is a column class"),
        (
            {"class": np.arange(3, dtype=np.int32)},
            {"classes": ["a", "b"]},
            r"class\.npy: example 2 is not one of the 2",
        ),
        ({"audio": AUDIO}, {"classes": ["a"]}, "lists classes, but there is no column class"),
        (
            {"class": np.zeros(3, np.int32)},
            {"classes": ["a", "b"], "class_captions": ["an a"]},
            "has 1 class_captions, but 2 classes",
        ),
        ({"audio": AUDIO}, {"rows": 5, "skipped": 1}, "3 examples and 1 skipped are not 5 rows of the source"),
        ({"audio": AUDIO}, {"clip": ["a"]}, r"clip is \"\['a'\]\"; it must be a name"),
        ({"audio": AUDIO}, {"eos_token_id": "x"}, "eos_token_id is 'x'; it must be a token id"),
    ],
)
def test_columns_that_are_not_what_their_names_mean_are_refused(tmp_path, column, metadata, message):
    write_columns(tmp_path, column, metadata)
    with pytest.raises(ValueError, match=message):
        open_columns(tmp_path)


def test_columns_that_are_not_what_their_digests_say_are_refused(tmp_path, monkeypatch):
    write_columns(tmp_path, {"audio": AUDIO, "text": ONES}, {})
    verify_columns(tmp_path, ["audio", "text"])
    damaged = bytearray((tmp_path / "text.npy").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "text.npy").write_bytes(damaged)
    verify_columns(tmp_path, ["audio"])
    with pytest.raises(ValueError, match=r"text\.npy: its content is not what dataset\.json says .sha256"):
        verify_columns(tmp_path, ["audio", "text"])
    monkeypatch.setattr(columns, "VERIFIED", 1)  # as of columns of gigabytes, which `info` compares
    verify_columns(tmp_path, ["audio", "text"])
