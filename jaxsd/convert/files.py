"""Encoders from PyTorch checkpoint files to folders and back, each written in one move or not at all."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from flax import nnx
from safetensors import SafetensorError

import encoders
from encoders.store import CONFIG, WEIGHTS
from jaxsd.convert.encoders import encoder_from_torch, encoder_to_torch
from jaxsd.pretrained.mapping import write_safetensors
from jaxsd.pretrained.torch_files import SAFETENSORS, SUFFIXES, import_torch, read_tensors

CANNOT_WRITE = (OSError, SafetensorError, RuntimeError)  # what Python, safetensors and torch raise on a full disk


def convert(source: Path, out: Path, heads: int | None = None) -> Path:
    """Write the encoder at `source` to `out` in the other form; returns `out`.

    A PyTorch or safetensors file with the names of the paper's PyTorch modules, its pieces, or a folder of pieces
    becomes an encoder's folder, which `encoders.load` reads; `heads` is that of `encoder_from_torch`. An encoder's
    folder becomes such a file. Raises FileNotFoundError or ValueError, in one sentence, where `source` cannot be read
    or does not fit and where `out` is no place for the result; then nothing is written.
    """
    if not (source / CONFIG).is_file():
        _check_folder(out)
        name, tensors = read_tensors(source)
        _write_folder(encoder_from_torch(tensors, heads=heads, name=name), out)
    elif heads is not None:
        raise ValueError(f"heads is {heads}, but {source / CONFIG} says how many there are")
    elif out.resolve() == (source / WEIGHTS).resolve():
        raise ValueError(f"{out} is the encoder's own file and is left as it is")
    elif out.suffix not in SUFFIXES or out.is_dir():
        raise ValueError(f"an encoder's folder becomes a file that ends in {', '.join(SUFFIXES)}, not {out}")
    else:
        _write_tensors(encoder_to_torch(encoders.load(source)), out)
    return out


def _write_folder(encoder: nnx.Module, folder: Path) -> None:
    with _scratch(folder) as scratch:
        encoders.save(encoder, scratch)
        for name in (WEIGHTS, CONFIG):  # encoder.json last: a folder that has it is whole
            (scratch / name).replace(folder / name)


def _write_tensors(tensors: Mapping[str, np.ndarray], path: Path) -> None:
    torch = None if path.suffix == SAFETENSORS else import_torch()
    with _scratch(path.parent) as scratch:
        part = scratch / path.name
        if torch is None:
            write_safetensors(tensors, part)
        else:
            torch.save({key: torch.from_numpy(value) for key, value in tensors.items()}, part)
        part.replace(path)


def _check_folder(folder: Path) -> None:
    """Raise ValueError unless an encoder can be written there without harm to anything else."""
    if folder.suffix in SUFFIXES:
        raise ValueError(f"a checkpoint becomes an encoder's folder, and {folder} is named like a file")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} holds something else than an encoder and is left as it is")


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder in `folder` for unfinished files. On an error it is removed, and so is `folder` if it was made here.

    Raises ValueError where the system refuses to write.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".part-", dir=folder) as scratch:
            yield Path(scratch)
    except BaseException as error:
        if made and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        if isinstance(error, CANNOT_WRITE):
            raise ValueError(f"{folder} cannot be written to: {error}") from None
        raise
