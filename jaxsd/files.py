"""Files that are whole or not there, and JSON in them."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` at the end: a reader sees the old file or the whole new one.

    On an error it is removed, and `path` stays as it was.
    """
    path = Path(path)
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def check_not_pointer(path):
    """Raise ValueError where the file holds no data but a pointer of Git LFS to them."""
    with Path(path).open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise ValueError(f"{path} is a pointer of Git LFS, not the file itself; run `git lfs pull` to get the file")


def read_json(path) -> dict:
    """The object in a JSON file. Raises FileNotFoundError or ValueError naming the file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    check_not_pointer(path)
    try:
        value = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds a JSON {type(value).__name__}, not an object")
    return value


def write_json(path, value: dict):
    """Write `value` as indented JSON, whole or not at all."""
    with replacing(path) as part:
        part.write_text(json.dumps(value, indent=2) + "\n")
