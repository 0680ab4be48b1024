"""Every layout gives the same rows, whose sounds and images are read as they are."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from jaxsd.data.decode import decode_rows
from jaxsd.data.layouts import LAYOUTS, read_source
from tests.helpers.data_files import caption, sound, write_files
from tests.helpers.videos import write_video

ROWS = 12


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """The folder of twelve sounds (.wav) and images (.png), named by their numbers."""
    folder = tmp_path_factory.mktemp("layouts")
    write_files(folder, ROWS, 0.0)
    found = folder / "files"
    import soundfile

    for row in range(ROWS):
        for one in found.glob(f"{row}.*"):
            if one.suffix != ".png":
                one.unlink()
        soundfile.write(found / f"{row}.wav", sound(row), 16_000)
    return found


def same_named(files, out):
    for row in range(ROWS):
        for suffix in (".wav", ".png"):
            shutil.copy(files / f"{row}{suffix}", out)
        (out / f"{row}.txt").write_text(caption(row) + "\nund anders\n")


def folders_of_kinds(files, out):
    for kind, suffix in (("audio", ".wav"), ("images", ".png"), ("texts", ".txt")):
        (out / kind).mkdir()
        for row in range(ROWS):
            if suffix == ".txt":
                (out / kind / f"{row}.txt").write_text(caption(row))
            else:
                shutil.copy(files / f"{row}{suffix}", out / kind)


def with_captions(files, out):
    same_named(files, out)
    for row in range(ROWS):
        (out / f"{row}.txt").unlink()
    lines = [f"{row}.wav,{row}.png,{caption(row)}\n" for row in range(ROWS)]
    (out / "manifest.csv").write_text("audio,image,text\n" + "".join(lines))


def audiofolder(files, out):
    same_named(files, out)
    rows = [{"file_name": f"{row}.wav", "caption": caption(row), "other": [row]} for row in range(ROWS)]
    (out / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def audiofolder_by_split(files, out):
    for split, numbers in (("train", range(8)), ("validation", range(8, ROWS))):
        (out / split).mkdir()
        for row in numbers:
            for suffix in (".wav", ".png"):
                shutil.copy(files / f"{row}{suffix}", out / split)
        lines = [f"{row}.wav,{row}.png,{caption(row)}\n" for row in numbers]
        (out / split / "metadata.csv").write_text("audio_file_name,image_file_name,text\n" + "".join(lines))


def parquet_bytes(files, out):
    for part in range(2):
        rows = range(6 * part, 6 * part + 6)
        cells = {
            kind: [{"bytes": (files / f"{row}{suffix}").read_bytes(), "path": f"{row}{suffix}"} for row in rows]
            for kind, suffix in (("audio", ".wav"), ("image", ".png"))
        }
        table = pa.table(cells | {"caption": [caption(row) for row in rows]})
        parquet.write_table(table, out / f"part-{part:05d}-of-00002.parquet", row_group_size=4)


def webdataset(files, out):
    for part in range(2):
        with tarfile.open(out / f"{part:05d}.tar", "w") as archive:
            for row in range(6 * part, 6 * part + 6):
                members = {f"{row:04d}{suffix}": (files / f"{row}{suffix}").read_bytes() for suffix in (".wav", ".png")}
                members[f"{row:04d}.json"] = json.dumps({"caption": caption(row)}).encode()
                for name, data in members.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))


SOURCES = {
    same_named: "same-named",
    folders_of_kinds: "same-named",
    with_captions: "same-named",
    audiofolder: "audiofolder",
    audiofolder_by_split: "audiofolder",
    parquet_bytes: "parquet",
    webdataset: "webdataset",
}


@pytest.mark.parametrize("write", SOURCES, ids=lambda write: write.__name__)
def test_a_layout_is_recognized_and_its_rows_are_read(write, files, tmp_path):
    write(files, tmp_path)
    manifest = read_source(tmp_path)
    assert next(name for name, one in LAYOUTS.items() if one.matches(tmp_path)) == SOURCES[write]
    examples = decode_rows(manifest.rows(np.arange(ROWS)), manifest.folder, 24, None, open_file=manifest.open_file)
    assert not examples.bad
    assert examples.captions == [caption(row) for row in range(ROWS)]
    np.testing.assert_array_equal(examples.columns["audio"], [sound(row) for row in range(ROWS)])
    reference = decode_rows(read_source(files.parent / "manifest.csv").rows(np.arange(ROWS)), files.parent, None, 24)
    again = decode_rows(manifest.rows(np.arange(ROWS)), manifest.folder, None, 24, open_file=manifest.open_file)
    np.testing.assert_array_equal(again.vae_images, reference.vae_images)
    shutil.copytree(tmp_path, tmp_path / "moved")
    if write is not same_named and SOURCES[write] != "same-named":
        splits = manifest.table.column_names.count("split")
        assert splits == (write is audiofolder_by_split)


def test_what_is_missing_is_listed_with_its_reason(files, tmp_path):
    same_named(files, tmp_path)
    (tmp_path / "3.png").rename(tmp_path / "3.svg")
    (tmp_path / "3.svg").write_text("<?xml version='1.0'?><svg/>")
    (tmp_path / "4.wav").unlink()
    (tmp_path / "5.txt").unlink()
    manifest = read_source(tmp_path)
    bad = decode_rows(manifest.rows(np.arange(ROWS)), tmp_path, 24, None).bad
    assert sorted(bad) == [3, 4, 5]
    assert "a drawing (SVG)" in bad[3]["reason"] and "4.* does not exist" in bad[4]["reason"]
    assert bad[5]["reason"] == "the caption is empty"


def test_a_damaged_shard_is_named_and_a_missing_member_is_listed(files, tmp_path):
    webdataset(files, tmp_path)
    with tarfile.open(tmp_path / "00002.tar", "w") as archive:
        info = tarfile.TarInfo("x.txt")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"a dog"))
    manifest = read_source(tmp_path)
    bad = decode_rows(manifest.rows(np.arange(ROWS + 1)), tmp_path, 24, None, open_file=manifest.open_file).bad
    assert bad == {
        12: {"row": 12, "file": "00002.tar/x.* (audio)", "reason": "00002.tar/x.* (audio) is not in the archive"}
    }
    shard = tmp_path / "00001.tar"
    shard.write_bytes(shard.read_bytes()[:40_000])
    with pytest.raises(ValueError, match="00001.tar is not a whole, uncompressed tar file"):
        read_source(tmp_path)


def test_vggsound_gives_the_loudest_second_and_its_frame(tmp_path):
    write_video(tmp_path / "abc_000010.mp4", 3.0, silent=(0.0, 2.0))
    (tmp_path / "vggsound.csv").write_text("abc,10,dog,train\nmissing,0,cat,test\n")
    manifest = read_source(tmp_path)
    assert manifest.table["split"].to_pylist() == ["train", "test"] and manifest.classes == ["cat", "dog"]
    examples = decode_rows(manifest.rows(np.arange(2)), tmp_path, 24, 24)
    assert list(examples.bad) == [1] and "missing_000000.mp4 does not exist" in examples.bad[1]["reason"]
    latents = decode_rows(manifest.rows(np.arange(1)), tmp_path, None, 24)
    assert latents.vae_images is not None and examples.vae_images is not None
    np.testing.assert_array_equal(latents.vae_images[0], examples.vae_images[0])


def test_an_unknown_layout_and_an_unknown_folder_are_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="--layout is 'zip'; allowed: webdataset, parquet, manifest"):
        read_source(tmp_path, "zip")
    with pytest.raises(ValueError, match="is in no layout that is known"):
        read_source(tmp_path)
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match="has the suffix '.txt'; allowed"):
        read_source(tmp_path / "a.txt")
