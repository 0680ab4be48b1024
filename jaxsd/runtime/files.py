"""Files that are whole or not there, JSON in them, and folders that one process fills at a time."""

import errno
import fcntl
import io
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

LOCK = ".lock"
NO_HARD_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)  # from file systems that have none
POINTER_BEGINNING = "version https://git-lfs.github.com/spec/"


@contextmanager
def naming(path, part: Path | None = None) -> Iterator[None]:
    """Errors of the system that name no file, such as that of a full disk, name `path`; those that name one stay.

    So do errors that name `part`, which `path` is written as before it is whole and which nobody asked for.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None and error.filename != str(part):
            raise
        if error.errno is None:  # one of a library's own
            raise OSError(f"{path} cannot be written ({error})") from error
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def replacing(path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` at the end: a reader sees the old file or the whole new one.

    On an error it is removed, and `path` stays as it was. Where another process is replacing `path`, wait for it.
    """
    path = Path(path)
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    with naming(path, part), _open_alone(part):
        try:
            yield part
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _open_alone(path: Path) -> IO:
    """Open a file, made where there is none, once no other process has it open in this way."""
    while True:
        file = path.open("ab")
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        if _is_at(file, path):
            return file
        file.close()  # the process before this one has just moved it


def place_new(part: Path, path: Path) -> bool:
    """Move a file to `path` unless there is one, which another process may make meanwhile; whether it was moved."""
    try:
        os.link(part, path)  # unlike a move, never in place of a file
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        if path.exists():
            return False
        part.rename(path)
    return True


def check_output_folder(folder: Path) -> None:
    """Raise ValueError where `folder`, or a folder that it would be in, is a file."""
    there = next(path for path in (folder, *folder.parents, Path()) if path.exists())
    if not there.is_dir():
        raise ValueError(f"{there} is a file; --out is a folder")


@contextmanager
def lock_folder(folder, *, wait: bool = False) -> Iterator[None]:
    """Keep a folder to this process for the length of a `with` block; the folder is made where there is none.

    Folders that were made for it and stay empty are removed.

    The lock goes with the process, however that ends. Where another process has the folder, wait for it if `wait`, or
    else raise ValueError that names the process.
    """
    path = Path(folder) / LOCK
    made = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        file = path.open("a+")
        try:
            # On NFS, Linux turns this into a lock that other hosts see too (nfs(5), local_lock=none).
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise ValueError(f"{folder} is being filled by {holder}; wait for it, or choose another folder") from None
        if _is_at(file, path):
            break
        file.close()  # the process before this one has just removed the file that this one opened
    try:
        with naming(path):
            file.truncate(0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()
        with suppress(OSError):  # it is not empty
            for parent in made:
                parent.rmdir()


def _is_at(file, path: Path) -> bool:
    """Whether the open file is the one that has this path now."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class StoredFile:
    """A file that lies inside another one, such as a tar archive, and was read from there. `name` is for messages."""

    name: str
    data: bytes = field(repr=False)

    def open(self, mode: str = "rb") -> io.BytesIO:
        """The bytes as a file, as `Path.open` gives it."""
        assert mode == "rb"
        return io.BytesIO(self.data)

    def __str__(self) -> str:
        return self.name


def check_not_pointer(path: Any):
    """Raise ValueError where a file, by its path or with a method `open`, is but a pointer of Git LFS to its data."""
    with (Path(path) if isinstance(path, str | os.PathLike) else path).open("rb") as file:
        if file.read(len(POINTER_BEGINNING)) == POINTER_BEGINNING.encode():
            raise ValueError(f"{path} is a pointer of Git LFS, not the file itself; run `git lfs pull` to get the file")


def read_json(path) -> dict:
    """The object in a JSON file. Raises FileNotFoundError or ValueError naming the file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    check_not_pointer(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds a JSON {type(value).__name__}, not an object")
    return value


def write_json(path, value: dict):
    """Write `value` as indented JSON, whole or not at all."""
    with replacing(path) as part:
        part.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
