"""`python -m jaxsd.data` from files to verified data sets."""

import socket
from pathlib import Path

import pytest

from jaxsd.data import prepare as prepare_module
from jaxsd.data.columns import open_columns
from jaxsd.data.info import info
from tests.helpers.data_acceptance import SPLIT, kill_after, records, start, verify
from tests.helpers.data_files import BROKEN, write_files, write_manifest

ROWS = 400
prepare = prepare_module.prepare_dataset
OPTIONS = {"clip": "toy", "validation": SPLIT[1], "test": SPLIT[3]}


@pytest.fixture(scope="module", autouse=True)
def compile_once():
    """One set of towers for all data sets that are prepared in this process."""
    towers, load = {}, prepare_module._load_towers

    def cached(about):
        key = about["diffusion"]
        return towers.get(key) or towers.setdefault(key, load(about))

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
    with pytest.raises(ValueError, match=r"\(diffusion was None, is 'toy'; picture_size was None, is 64\)"):
        prepare(manifest, out, **OPTIONS, diffusion="toy")
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(ValueError, match=r"\(source_sha256 was '[0-9a-f]{64}', is '[0-9a-f]{64}'\)"):
        prepare(manifest, out, **OPTIONS)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_too_many_bad_rows_fail_with_a_list_and_may_be_allowed(tmp_path):
    manifest, expected = write_files(tmp_path / "source", 60, 0.5)
    out, skipped = tmp_path / "out", tmp_path / "out" / "skipped.csv"
    options = {"clip": "toy", "validation": "0.2", "test": "0", "diffusion": "toy", "workers": 0}
    with pytest.raises(ValueError, match=r"rows are bad, more than the share of 0.05 of 60 .*skipped\.csv says why"):
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
    with pytest.raises(ValueError, match="256 rows are bad, more than the share of 0.05 of 1000"):
        prepare(path, tmp_path / "out", workers=0, **OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_bad": 1.5}, "--max-bad is 1.5; allowed: a share from 0 to 1"),
        ({"clip": "nowhere"}, "nowhere: no such folder, and no Hugging Face repository can be named so"),
        ({"diffusion": "toy", "size": 60}, "--size is 60; allowed: multiples of 8"),
    ],
)
def test_wrong_arguments_write_nothing(source, tmp_path, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare(source[0], tmp_path / "out", **(OPTIONS | options))
    assert not (tmp_path / "out").exists()
