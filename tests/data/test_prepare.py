"""`python -m jaxsd.data` from files to verified data sets."""

import csv
import json
import shutil
import socket
import warnings
from pathlib import Path

import numpy as np
import pytest

from jaxsd.clip.images import load_image
from jaxsd.data import decode
from jaxsd.data import prepare as prepare_module
from jaxsd.data.build import SplitBuild
from jaxsd.data.columns import open_columns, write_examples
from jaxsd.data.info import info
from jaxsd.data.prepare import summarize
from jaxsd.pretrained.weights import write_safetensors
from jaxsd.runtime.bundled import clip_source
from jaxsd.runtime.files import lock_folder, read_json
from tests.helpers.data_acceptance import SPLIT, kill_after, records, start, verify
from tests.helpers.data_files import BROKEN, write_files, write_manifest

pytestmark = pytest.mark.slow

ROWS = 400
prepare = prepare_module.prepare_dataset
OPTIONS = {"clip": "toy", "validation": SPLIT[1], "test": SPLIT[3]}


@pytest.fixture(scope="module", autouse=True)
def compile_once():
    """One set of towers for all data sets that are prepared in this process."""
    towers, load = {}, prepare_module._load_towers

    def cached(metadata, *, with_clip):
        key = metadata["diffusion"], metadata["vae"], with_clip
        return towers.get(key) or towers.setdefault(key, load(metadata, with_clip=with_clip))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_module, "_load_towers", cached)
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A manifest with every kind of broken row, the reasons expected, and what is prepared of it in one go."""
    folder = tmp_path_factory.mktemp("prepare")
    manifest, expected = write_files(folder / "source", ROWS, len(BROKEN) / ROWS)
    assert prepare(manifest, folder / "whole", workers=0, **OPTIONS)
    return manifest, expected, folder / "whole"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_good_row_is_there_once_and_every_bad_one_is_listed(source):
    manifest, expected, out = source
    sizes = verify(out, ROWS, expected)
    assert sum(sizes.values()) == ROWS - len(BROKEN)
    assert not list(out.rglob("records"))
    info(out)


@pytest.mark.long
def test_killed_and_resumed_by_two_processes_it_is_the_same_to_the_bit(source, tmp_path):
    manifest, _, whole = source
    out = tmp_path / "out"
    killed = start(manifest, out)
    kill_after(killed, out, 1)
    assert 1 <= records(out) < 4 and not list(out.rglob("dataset.json"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ("--coordinator", f"127.0.0.1:{port}", "--num-processes", "2", "--workers", "1", "--process-id")
    both = [start(manifest, out, *flags, str(index)) for index in range(2)]
    errors = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert contents(out) == contents(whole)


def test_what_is_there_is_not_made_again_nor_mixed_with_another(source, tmp_path):
    manifest, _, out = source
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert not prepare(manifest, out, workers=0, **OPTIONS)
    with pytest.raises(ValueError, match=r"train holds a data set made otherwise \(seed was 0, is 1\)"):
        prepare(manifest, out, **OPTIONS, seed=1)
    other = manifest.with_name("other.csv")
    other.write_text(manifest.read_text() + "\n")
    with pytest.raises(ValueError, match=r"\(source was .*source_sha256 was '[0-9a-f]{64}', is '[0-9a-f]{64}'\)"):
        prepare(other, out, **OPTIONS)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_data_set_is_the_same_wherever_its_models_and_its_manifest_are(source, tmp_path):
    manifest, _, out = source
    moved = manifest.with_name("moved.csv")
    shutil.copy(manifest, moved)
    shutil.copytree(clip_source("toy"), tmp_path / "clip")
    assert not prepare(moved, out, workers=0, **(OPTIONS | {"clip": str(tmp_path / "clip")}))
    write_safetensors({"other": np.zeros(3, np.float32)}, tmp_path / "clip" / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"train holds a data set made otherwise \(clip was 'toy', is .*clip_sha256 was"
    ):
        prepare(moved, out, workers=0, **(OPTIONS | {"clip": str(tmp_path / "clip")}))


@pytest.fixture
def small(tmp_path):
    """A manifest of forty rows without a bad one, with classes."""
    manifest, _ = write_files(tmp_path / "source", 40, 0.0)
    rows = [row | {"class": f"class {number % 3}"} for number, row in enumerate(csv.DictReader(manifest.open()))]
    write_manifest(manifest, rows)
    return manifest


SMALL = {"clip": "toy", "validation": "8", "test": "0", "workers": 0}


def test_latents_are_added_to_a_data_set_that_is_there(small, tmp_path):
    assert prepare(small, tmp_path / "whole", **SMALL, diffusion="toy")
    out = tmp_path / "out"
    assert prepare(small, out, **SMALL)
    before = {path.name: path.stat().st_mtime_ns for path in (out / "train").glob("*.npy")}
    assert prepare(small, out, **SMALL, diffusion="toy")
    after = {path.name: path.stat().st_mtime_ns for path in (out / "train").glob("*.npy")}
    assert after.keys() - before.keys() == {"latents.npy"} and before.items() <= after.items()
    whole, added = contents(tmp_path / "whole"), contents(out)
    assert whole.keys() == added.keys()
    for name in whole:
        if name.endswith("dataset.json"):
            assert json.loads(added[name]) == json.loads(whole[name])
        else:
            assert added[name] == whole[name]
    info(out)
    assert not prepare(small, out, **SMALL) and not prepare(small, out, **SMALL, diffusion="toy")


def test_latents_of_images_that_are_gone_are_not_added(small, tmp_path):
    assert prepare(small, tmp_path / "out", **SMALL)
    image = next((tmp_path / "source" / "files").glob("*.png"))
    data = image.read_bytes()
    image.unlink()
    with pytest.raises(ValueError, match=rf"row {image.stem} can no longer be read \(.*, so nothing is added to"):
        prepare(small, tmp_path / "out", **SMALL, diffusion="toy")
    info(tmp_path / "out")
    image.write_bytes(data)
    assert prepare(small, tmp_path / "out", **SMALL, diffusion="toy")


def test_classes_are_numbers_of_sorted_names(small, tmp_path):
    assert prepare(small, tmp_path / "out", **SMALL)
    for split in ("train", "validation"):
        columns = open_columns(tmp_path / "out" / split)
        assert columns["class"].dtype == np.int32
        np.testing.assert_array_equal(columns["class"], columns["row"] % 3)
        assert read_json(tmp_path / "out" / split / "dataset.json")["classes"] == ["class 0", "class 1", "class 2"]


def test_two_at_once_are_refused_and_a_lock_dies_with_its_process(small, tmp_path):
    out = tmp_path / "out"
    with lock_folder(out / "train"), pytest.raises(ValueError, match=r"train is being filled by process \d+ on"):
        prepare(small, out, **SMALL)
    (out / "train").mkdir(parents=True, exist_ok=True)
    (out / "train" / ".lock").write_text("process 1 on a host that was switched off")
    assert prepare(small, out, **SMALL)
    assert not list(out.rglob(".lock"))


def test_examples_that_another_process_overwrote_are_found(small, tmp_path, monkeypatch):
    out, finish = tmp_path / "out", SplitBuild.finish

    def overwrite(self, names, metadata):
        write_examples(self.folder, 3, {"audio": np.zeros((2, 16_000), np.int16)})
        finish(self, names, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(SplitBuild, "finish", overwrite)
        with pytest.raises(ValueError, match=r"train/audio\.npy: the examples 0 to 30 are not those that were written"):
            prepare(small, out, **SMALL)
    shutil.rmtree(out / "train")
    assert prepare(small, out, **SMALL)
    column = np.load(out / "train" / "audio.npy", mmap_mode="r+")
    column[5] = 0
    column.flush()
    with pytest.raises(ValueError, match=r"train/audio\.npy: its content is not what dataset\.json says \(sha256"):
        info(out)


def test_warnings_name_the_row(small, tmp_path, monkeypatch, capsys):
    def warn(path):
        if Path(path).name == "7.png":
            warnings.warn("a profile that cannot be read", stacklevel=2)
        return load_image(path)

    monkeypatch.setattr(decode, "load_image", warn)
    assert prepare(small, tmp_path / "out", **SMALL)
    assert "row 7: files/7.png: a profile that cannot be read" in capsys.readouterr().err


def test_the_summary_counts_and_warns(source, small, tmp_path):
    manifest, expected, out = source
    sizes = {name: len(open_columns(out / name)["row"]) for name in ("train", "validation", "test")}
    parts = ", ".join(f"{size} {name}" for name, size in sizes.items())
    assert summarize(out) == f"{sum(sizes.values())} examples: {parts}; {len(expected)} skipped, see skipped.csv"
    prepare(small, tmp_path / "out", **(SMALL | {"validation": "1"}))
    assert summarize(tmp_path / "out") == (
        "40 examples: 37 train, 3 validation\nvalidation has 3 examples: figures of so few say little (--validation)"
    )


def test_too_many_bad_rows_fail_with_a_list_and_may_be_allowed(tmp_path):
    manifest, expected = write_files(tmp_path / "source", 60, 0.5)
    out, skipped = tmp_path / "out", tmp_path / "out" / "skipped.csv"
    options = {"clip": "toy", "validation": "0.2", "test": "0", "diffusion": "toy", "workers": 0}
    with pytest.raises(
        ValueError,
        match=r"bad rows, more than the share of 0.05 of 60 .*the first being row \d+: .*skipped\.csv says why",
    ):
        prepare(manifest, out, **options)
    assert skipped.read_text().count("\n") > 3
    with pytest.raises(ValueError, match="train is not finished"):
        info(out)
    assert prepare(manifest, out, max_bad=0.5, **options)
    assert skipped.read_text().count("\n") == 1 + len(expected)
    assert sum(len(open_columns(out / name)["latents"]) for name in ("train", "validation")) == 60 - len(expected)
    info(out)


def test_it_stops_as_soon_as_too_many_rows_are_bad(tmp_path):
    path = tmp_path / "manifest.jsonl"
    write_manifest(path, [{"audio": "missing.wav", "image": "missing.png", "text": "a dog"}] * 1_000)
    with pytest.raises(ValueError, match="256 bad rows, more than the share of 0.05 of 1000"):
        prepare(path, tmp_path / "out", workers=0, **OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_bad": 1.5}, "--max-bad is 1.5; allowed: a share from 0 to 1"),
        ({"clip": "nowhere"}, "nowhere: no such file or folder, and no Hugging Face repository can be named so"),
        ({"diffusion": "toy", "size": 60}, "--size is 60; allowed: multiples of 8"),
        ({"size": 64}, "--size is of the images that become latents, which needs --latents"),
        ({"workers": -1}, "--workers is -1; allowed: from 0"),
        ({"seed": -1}, "--seed is -1; allowed: from 0"),
    ],
)
def test_wrong_arguments_write_nothing(source, tmp_path, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare(source[0], tmp_path / "out", **(OPTIONS | options))
    assert not (tmp_path / "out").exists()
