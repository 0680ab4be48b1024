"""PyTorch checkpoint files, whole or in pieces, of which no code is ever run."""

import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxsd.runtime.files import check_not_pointer

TORCH_SUFFIXES = (".pth", ".pt", ".bin")
PIECE = re.compile(r"(?P<whole>.+\.(?:pth|pt|bin))\.part[._-]?(?P<ending>.*)")

# Reading with weights_only could corrupt memory in older ones: CVE-2026-24747.
OLDEST_TORCH = (2, 10)


def read_torch(source: Path) -> tuple[str, Mapping[str, Any]]:
    """Read a state dict. `source` is a file, the path that a file cut into pieces would have, or a folder of pieces.

    Returns what errors call the file, and the tensors by name. Raises FileNotFoundError where there is no file and
    ValueError where the file is damaged or holds more than tensors.
    """
    if source.is_file():
        check_not_pointer(source)
        with source.open("rb") as file:
            return str(source), _load(file, str(source))
    whole, pieces = find_pieces(source)
    name = f"{whole} (joined from {len(pieces)} pieces)"
    return name, _load(io.BytesIO(b"".join(piece.read_bytes() for piece in pieces)), name)


def find_pieces(source: Path) -> tuple[Path, list[Path]]:
    """The path that a file cut into pieces would have whole, and its pieces in order.

    `source` is that path or the folder of the pieces, which are named FILE.part00, FILE.part01 and so on, or
    FILE.partaa, FILE.partab and so on. Raises FileNotFoundError where there are no pieces, and ValueError where one is
    missing or the pieces of several files mix.
    """
    folder = source if source.is_dir() else source.parent
    found = [(match, path) for path in sorted(folder.glob("*.part*")) if (match := PIECE.fullmatch(path.name))]
    if source.is_dir():
        absent = "a folder without pieces named like FILE.pth.part00"
    else:
        absent = f"no such file, nor pieces named like {source.name}.part00"
        found = [(match, path) for match, path in found if match["whole"] == source.name]
    files = sorted({match["whole"] for match, _ in found})
    if not files:
        raise FileNotFoundError(f"{source}: {absent}")
    if len(files) > 1:
        choices = " or ".join(str(folder / file) for file in files)
        raise ValueError(f"{folder} holds pieces of several files: choose {choices}")
    return folder / files[0], _in_order([(match["ending"], path) for match, path in found])


def import_torch(name: str = "") -> ModuleType:
    """Import torch, which only PyTorch files need. `name` is what the error calls the file.

    Raises ValueError where torch is missing or too old to read files safely.
    """
    needed = f"{name and name + ': '}PyTorch files need torch {'.'.join(map(str, OLDEST_TORCH))} or newer"
    try:
        import torch
    except ImportError:
        raise ValueError(f"{needed}, which is not installed; safetensors files need no torch") from None
    version = re.findall(r"\d+", str(torch.__version__))[:2]
    if tuple(map(int, version)) < OLDEST_TORCH:
        raise ValueError(f"{needed}; {torch.__version__} is installed")
    return torch


def _load(file: io.BufferedIOBase, name: str) -> Mapping[str, Any]:
    """The state dict in a file of torch.save. No code in the file is ever run."""
    torch = import_torch(name)
    start = file.read(4)
    file.seek(0)
    archive = start == b"PK\x03\x04"
    if not archive and start[:1] != b"\x80":  # the first byte of a pickle, as torch.save wrote until 1.6
        raise ValueError(f"{name} is not a PyTorch file, or its beginning is missing")
    try:
        with warnings.catch_warnings(action="ignore"):
            loaded = torch.load(file, weights_only=True, map_location="cpu")
        damaged = zipfile.ZipFile(file).testzip() if archive else None  # torch ignores the checksums
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f" ({found[1]})" if found else ""
        raise ValueError(
            f"{name} holds more than tensors{what}, which could run code when read, and is refused; "
            "save the module's state_dict() alone"
        ) from None
    except Exception as error:  # there is no telling what damaged bytes lead torch to
        reason = str(error).split(". ")[0].strip() or type(error).__name__
        raise ValueError(f"{name} is truncated or damaged, or no state dict: {reason}") from None
    if damaged:
        raise ValueError(f"{name} is damaged: {damaged} in it does not fit its checksum")
    if not isinstance(loaded, Mapping) or not all(isinstance(key, str) for key in loaded):
        raise ValueError(f"{name} holds no state dict, which maps names to tensors, but a {type(loaded).__name__}")
    return loaded


def _in_order(pieces: list[tuple[str, Path]]) -> list[Path]:
    """The pieces in order. Each is given as the end of its name and its path; numbers begin at 0 or 1, letters at a."""
    listed = ", ".join(path.name for _, path in pieces)
    are_numbers = all(re.fullmatch("[0-9]+", ending) for ending, _ in pieces)
    if not are_numbers and not all(re.fullmatch("[a-z]+", ending) for ending, _ in pieces):
        raise ValueError(f"the order of these pieces cannot be told: {listed}")
    numbered = {int(ending) if are_numbers else _letters(ending): path for ending, path in pieces}
    if len(numbered) < len(pieces):
        raise ValueError(f"some of these pieces have the same number: {listed}")
    first = 1 if are_numbers and 0 not in numbered else 0
    ordered = [numbered[number] for number in sorted(numbered)]
    for number, path in enumerate(ordered, first):
        if numbered.get(number) != path:
            raise ValueError(f"a piece is missing before {path}")
    return ordered


def _letters(ending: str) -> int:
    """The number of a piece that ends in letters: aa is 0, ab is 1, ba is 26."""
    number = 0
    for letter in ending:
        number = 26 * number + ord(letter) - ord("a")
    return number
