"""Encoders from PyTorch checkpoint files to folders and back."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from flax import nnx
from safetensors import SafetensorError

import encoders
from encoders.store import ENCODER_JSON, ENCODER_WEIGHTS
from jaxsd.convert.encoders import ENCODER_MAPPINGS, encoder_from_torch, encoder_to_torch
from jaxsd.pretrained.torch_files import TORCH_SUFFIXES, import_torch
from jaxsd.pretrained.weights import SAFETENSORS, read_tensors, write_safetensors
from jaxsd.runtime.files import replacing

SUFFIXES = (*TORCH_SUFFIXES, SAFETENSORS)
CANNOT_WRITE = (OSError, SafetensorError, RuntimeError)  # what Python, safetensors and torch raise on a full disk


def convert(source: Path, out: Path, heads: int | None = None) -> Path:
    """Convert the encoder at `source` to the other form, written to `out`; returns `out`.

    Args:
        source: a PyTorch or safetensors file with the names of the paper's PyTorch modules, a file whose pieces lie
            beside it, the folder of its pieces, or an encoder's folder.
        out: an encoder's folder, which `encoders.load` reads, where `source` is a checkpoint; a file that ends in .pth,
            .pt, .bin or .safetensors where `source` is an encoder's folder.
        heads: that of `encoder_from_torch`.

    Raises:
        FileNotFoundError, ValueError: in one sentence, where `source` cannot be read or does not fit and where `out`
            cannot be written or is something else. Nothing is written then.
    """
    if not (source / ENCODER_JSON).is_file():
        _check_folder(out)
        name, tensors = read_tensors(source)
        _write_folder(encoder_from_torch(tensors, heads=heads, name=name), out)
    elif heads is not None:
        raise ValueError(f"heads is {heads}, but {source / ENCODER_JSON} says how many there are")
    elif out.resolve() == (source / ENCODER_WEIGHTS).resolve():
        raise ValueError(f"{out} is the encoder's own file and is left as it is")
    elif out.suffix not in SUFFIXES or out.is_dir():
        raise ValueError(f"an encoder's folder becomes a file that ends in {', '.join(SUFFIXES)}, not {out}")
    elif (name := encoders.read_config(source)["encoder"]) not in ENCODER_MAPPINGS:
        raise ValueError(f"{source} holds {name}; only {', '.join(ENCODER_MAPPINGS)} have PyTorch names")
    else:
        _write_tensors(encoder_to_torch(encoders.load(source)), out)
    return out


def _write_folder(encoder: nnx.Module, folder: Path) -> None:
    with _writing(folder):
        encoders.save(encoder, folder)


def _write_tensors(tensors: Mapping[str, np.ndarray], path: Path) -> None:
    if path.suffix == SAFETENSORS:
        with _writing(path.parent):
            write_safetensors(tensors, path)
        return
    torch = import_torch()
    with _writing(path.parent), replacing(path) as part:
        torch.save({key: torch.from_numpy(value) for key, value in tensors.items()}, part)


def _check_folder(folder: Path) -> None:
    """Raise ValueError unless `folder` is an encoder's, empty, or missing: nothing else may be harmed."""
    if folder.suffix in SUFFIXES:
        raise ValueError(f"a checkpoint becomes an encoder's folder, and {folder} is named like a file")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / ENCODER_JSON).is_file():
        raise ValueError(f"{folder} holds something else than an encoder and is left as it is")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Make `folder` where it is missing; on an error, remove it again if it is empty.

    Raises ValueError where the system refuses to write.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        if made and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        if isinstance(error, CANNOT_WRITE):
            raise ValueError(f"{folder} cannot be written to: {error}") from None
        raise
