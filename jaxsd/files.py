"""Files that are whole or not there."""

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
