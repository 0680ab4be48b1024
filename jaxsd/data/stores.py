"""Sources that are read from object stores: `s3://`, `gs://` and whatever else fsspec has a file system for."""

from pathlib import Path
from typing import Any

from upath import UPath

from jaxsd.runtime.files import StoredFile

# A path of this machine, or a URL with the same methods.
SourcePath = Path | UPath


class StoreError(OSError):
    """An object store does not give what was asked for. No row is to blame for it."""


def locate(source) -> SourcePath:
    """A path, or a URL as `s3://bucket/folder`. Raises ValueError where nothing reads such URLs."""
    text = str(source)
    if "://" not in text:
        return Path(source)
    if text.startswith("file://"):
        return Path(UPath(text).path)
    try:
        found = UPath(text)
        _ = found.fs  # which imports what reads such URLs
    except (ImportError, ValueError) as error:
        raise ValueError(f"{text} cannot be read: {error}; pip install 'jaxsd[stores]' reads s3:// and gs://") from None
    return found


def fetch_file(path: SourcePath) -> Path | StoredFile:
    """What decoders read: a path of this machine as it is, the bytes of a URL."""
    return path if isinstance(path, Path) else StoredFile(str(path), read_range(path))


def read_range(path: SourcePath, offset: int = 0, size: int | None = None) -> bytes:
    """The bytes of a file from `offset` on, `size` of them or all.

    Raises ValueError where there is no such object in a store, and StoreError where the store fails otherwise.
    """
    if isinstance(path, Path):
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(-1 if size is None else size)
    try:
        data: Any = path.fs.cat_file(path.path, start=offset, end=None if size is None else offset + size)
        return data
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except Exception as error:  # each store has errors of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StoreError(f"{path} cannot be read ({reason}); the same command goes on") from error


def relative_files(folder: UPath) -> list[Path]:
    """All objects below a URL, relative to it."""
    root = folder.path.rstrip("/")
    return [Path(name).relative_to(root) for name in folder.fs.find(root)]
