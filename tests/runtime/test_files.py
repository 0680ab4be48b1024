"""Files are replaced whole, or not at all; a folder is filled by one process at a time."""

import errno
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from jaxsd.clip.tokens import load_tokenizer
from jaxsd.clip.towers import TextConfig
from jaxsd.data.columns import open_columns, write_columns
from jaxsd.data.layouts import read_source
from jaxsd.data.layouts.tables import read_table
from jaxsd.pretrained.weights import open_tensors
from jaxsd.runtime.files import lock_folder, place_new, read_json, replacing


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as part:
        part.write_text("new")
        assert path.read_text() == "old" and part.suffix == ".txt"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ValueError, match="no"), replacing(path) as part:
        part.write_text("half")
        raise ValueError("no")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_two_that_replace_a_file_do_so_one_after_the_other(tmp_path):
    path = tmp_path / "a.txt"

    def replace():  # another opened file excludes it, in this process as in another
        with replacing(path) as part:
            part.write_text("second")

    other = threading.Thread(target=replace)
    with replacing(path) as part:
        part.write_text("fi")
        other.start()
        other.join(0.2)
        assert other.is_alive() and part.read_text() == "fi"
        part.write_text("first")
    other.join(10)
    assert path.read_text() == "second" and list(tmp_path.iterdir()) == [path]


def test_a_folder_is_kept_to_a_process_as_long_as_it_lives(tmp_path):
    code = f"""
from jaxsd.runtime.files import lock_folder
with lock_folder({str(tmp_path / "run")!r}):
    print("locked", flush=True)
    input()
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(ValueError, match=rf"run is being filled by process {holder.pid} on .*; wait for it"):
        with lock_folder(tmp_path / "run"):
            pass
    holder.kill()
    holder.communicate()
    with lock_folder(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").is_file()
    assert not list((tmp_path / "run").iterdir())


def test_a_folder_that_was_made_to_be_locked_goes_where_nothing_is_written(tmp_path):
    with lock_folder(tmp_path / "run"), pytest.raises(ValueError, match="run is being filled by process"):
        with lock_folder(tmp_path / "run"):
            pass
    assert not list(tmp_path.iterdir())
    with lock_folder(tmp_path / "run"):
        (tmp_path / "run" / "a").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["a"]


@pytest.mark.parametrize("linked", [True, False])
def test_a_new_file_takes_no_place_that_is_taken(tmp_path, monkeypatch, linked):
    if not linked:
        monkeypatch.setattr(os, "link", raises(OSError(errno.EPERM, "no links here")))
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    assert not place_new(tmp_path / "a", tmp_path / "b") and (tmp_path / "b").read_text() == "b"
    assert place_new(tmp_path / "a", tmp_path / "c") and (tmp_path / "c").read_text() == "a"


def raises(error):
    def function(*_):
        raise error

    return function


def test_a_pointer_of_git_lfs_in_place_of_a_file_is_named(tmp_path):
    (tmp_path / "a.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    with pytest.raises(ValueError, match=r"a\.json is a pointer of Git LFS, not the file itself; run `git lfs pull`"):
        read_json(tmp_path / "a.json")


SPLIT = {"a": np.ones(3, np.float32)}


@pytest.mark.parametrize(
    "name, read",
    [
        ("tokenizer.json", lambda path: load_tokenizer(path.parent, TextConfig())),
        ("added_tokens.json", lambda path: load_tokenizer(path.parent, TextConfig())),
        ("merges.txt", lambda path: load_tokenizer(path.parent, TextConfig())),
        ("dataset.json", lambda path: open_columns(path.parent)),
        ("a.npy", lambda path: open_columns(path.parent)),
        ("a.tar", lambda path: read_source(path)),
        ("a.parquet", read_table),
        ("metadata.csv", read_table),
        ("a.safetensors", lambda path: open_tensors([path])),
        ("diffusion_pytorch_model.bin", lambda path: open_tensors([path])),
    ],
)
def test_a_pointer_of_git_lfs_in_place_of_any_file_is_named(tmp_path, name, read):
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "merges.txt").write_text("")
    write_columns(tmp_path, SPLIT, {})
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    with pytest.raises(ValueError, match=rf"{name} is a pointer of Git LFS"):
        read(tmp_path / name)
