"""Sources in object stores are read as those on a disk."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from upath import UPath

from jaxsd.data.decode import decode_rows
from jaxsd.data.layouts import read_source
from jaxsd.data.manifest import read_manifest
from jaxsd.data.stores import StoreError, locate
from tests.data import test_layouts
from tests.data.test_layouts import ROWS, files  # noqa: F401  # a fixture
from tests.helpers.data_files import caption, sound


@pytest.fixture
def bucket():
    """An empty folder of the store in this process's memory."""
    url = UPath("memory://bucket/data")
    yield url
    MemoryFileSystem.store.clear()


def upload(folder: Path, url: UPath):
    for path in folder.rglob("*"):
        if path.is_file():
            (url / str(path.relative_to(folder))).write_bytes(path.read_bytes())


@pytest.mark.parametrize("write", test_layouts.SOURCES, ids=lambda write: write.__name__)
def test_every_layout_gives_the_rows_that_it_gives_of_a_disk(write, files, bucket, tmp_path):  # noqa: F811
    write(files, tmp_path)
    upload(tmp_path, bucket)
    there, here = read_source(str(bucket)), read_source(tmp_path)
    assert there.table == here.table and there.digest == here.digest
    examples = decode_rows(there.rows(np.arange(ROWS)), there.folder, 24, None, open_file=there.open_file)
    assert not examples.bad and examples.captions == [caption(row) for row in range(ROWS)]
    np.testing.assert_array_equal(examples.columns["audio"][3], sound(3))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_manifest_may_be_here_and_its_files_there(files, bucket, tmp_path, suffix):  # noqa: F811
    for name in ("0.wav", "0.png"):
        (bucket / name).write_bytes((files / name).read_bytes())
    lines = {
        ".csv": f"audio,image,text\n{bucket}/0.wav,{bucket}/0.png,a\n{bucket}/1.wav,{bucket}/0.png,b\n",
        ".jsonl": "".join(
            f'{{"audio": "{bucket}/{row}.wav", "image": "{bucket}/0.png", "text": "a"}}\n' for row in range(2)
        ),
    }
    (tmp_path / f"clips{suffix}").write_text(lines[suffix])
    manifest = read_manifest(tmp_path / f"clips{suffix}")
    examples = decode_rows(manifest.rows(np.arange(2)), manifest.folder, 24, None, open_file=manifest.open_file)
    assert {index: bad["reason"] for index, bad in examples.bad.items()} == {1: f"{bucket}/1.wav does not exist"}


def test_a_store_that_fails_is_no_fault_of_a_row(files, bucket, monkeypatch):  # noqa: F811
    for name in ("0.wav", "0.png"):
        (bucket / name).write_bytes((files / name).read_bytes())
    (bucket / "clips.csv").write_text("audio,image,text\n0.wav,0.png,a\n")
    manifest = read_source(str(bucket / "clips.csv"))

    def refuse(*_, **__):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", refuse)
    with pytest.raises(StoreError, match=r"data/0.wav cannot be read .Access Denied.; the same command"):
        decode_rows(manifest.rows(np.arange(1)), manifest.folder, 24, None, open_file=manifest.open_file)


def test_urls_that_nothing_reads_are_one_sentence(tmp_path):
    assert locate(f"file://{tmp_path}") == tmp_path
    with pytest.raises(ValueError, match=r"nowhere://a/b cannot be read: .*; pip install 'jaxsd.stores.' reads s3"):
        locate("nowhere://a/b")
    with pytest.raises(FileNotFoundError, match="memory://bucket/none.csv: no such file"):
        read_source("memory://bucket/none.csv")


@pytest.mark.long
def test_prepare_reads_from_s3(files, tmp_path, monkeypatch):  # noqa: F811
    """A server that speaks S3 holds tar shards; the data set is that of the same shards on the disk."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed (pip install 'moto[server]' s3fs)")
    fsspec = pytest.importorskip("s3fs", reason="s3fs is not installed (the extra stores)")
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        environment = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
        for name, value in (environment | {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}).items():
            monkeypatch.setenv(name, value)
        (tmp_path / "shards").mkdir()
        test_layouts.webdataset(files, tmp_path / "shards")
        fsspec.S3FileSystem().mkdir("bucket")
        upload(tmp_path / "shards", UPath("s3://bucket/shards"))
        for name, source in (("here", tmp_path / "shards"), ("there", "s3://bucket/shards")):
            command = ["-m", "jaxsd.data", "prepare", source, "--clip", "toy", "--out", tmp_path / name]
            subprocess.run([sys.executable, *command, "--workers", "1"], check=True)
    finally:
        server.stop()
    columns = [path.relative_to(tmp_path / "here") for path in (tmp_path / "here").rglob("*.npy")]
    assert columns and all(
        (tmp_path / "here" / path).read_bytes() == (tmp_path / "there" / path).read_bytes() for path in columns
    )
