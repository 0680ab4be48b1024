"""Checkpoint files as Hugging Face lays them out, read one tensor at a time.

A component's weights are one file, or several ("shards") that a JSON index lists; safetensors files are preferred to
torch's. Whatever is wrong with a file is one sentence that names it.
"""

import codecs
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from safetensors import SafetensorError, safe_open

from encoders.layers import abstract
from jaxsd.files import read_json
from jaxsd.pretrained import recognize as kinds
from jaxsd.pretrained.hub import fetch
from jaxsd.pretrained.mapping import Rule, import_parameters
from jaxsd.pretrained.torch_files import read_tensors

SUFFIXES = (".safetensors", ".bin")  # the preferred first, in the order of WeightsName
TORCH_MAGIC = (b"PK\x03\x04", b"\x80\x02\x8a\n")  # torch.save's files since 1.6 and before
FLOATS = ("F64", "F32", "F16", "BF16")


class WeightsName(NamedTuple):
    """What a component's weights are called, less suffix and variant."""

    safetensors: str
    torch: str


MODEL = WeightsName("model", "pytorch_model")  # transformers
DIFFUSION = WeightsName("diffusion_pytorch_model", "diffusion_pytorch_model")  # diffusers


@dataclass(frozen=True)
class Stored:
    """A tensor that still lies in a file: its shape is known, `numpy.asarray` reads its values."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.read()


def load_weights(
    files: list[Path],
    rules: Iterable[Rule],
    make: Callable[..., nnx.Module],
    dtype: DTypeLike,
    ignore: Iterable[str] = (),
    *,
    wanted: str,
    foreign: Sequence[tuple[str, str]] = kinds.KEYS,
) -> nnx.Module:
    """The model that `make(rngs=...)` makes, its parameters as `dtype`, filled from `files`.

    Beside what is filled, one tensor at a time is held in host memory; torch's files are the exception, which are held
    once, less what has been filled. `wanted` says what the model is and `foreign` what else the files might be. Raises
    FileNotFoundError or ValueError naming the file where it is missing, damaged, foreign, or does not fit.
    """
    name = str(files[0] if len(files) == 1 else files[0].parent)
    tensors = open_tensors(files)
    if kind := kinds.recognise_keys(tensors, foreign):
        raise ValueError(f"{name} is {kind}, not {wanted}")
    return import_parameters(tensors, rules, abstract(make), ignore, name, dtype)


def find_weights(folder: Path, name: WeightsName, variant: str | None = None) -> list[Path]:
    """The files of a component's weights. Raises FileNotFoundError where there are none or a shard is missing."""
    for stem, suffix in zip(name, SUFFIXES, strict=True):
        if files := _find(folder, stem, suffix, variant):
            return files
    path = folder / _file_name(name.safetensors, SUFFIXES[0], variant)
    raise FileNotFoundError(f"{path}: no such file, nor an index of its shards, nor torch's")


def download_weights(source, folder: Path, parts: Mapping[str, WeightsName], variant: str | None = None) -> None:
    """Download the weights that are not there of each part, a subfolder of `folder`, the cached repository `source`.

    The part "" is the folder itself. Torch's files are asked for where the repository has no safetensors. Nothing is
    done for a folder of one's own.
    """
    for suffix in SUFFIXES:
        lacking = [
            f"{part}/{pattern}".removeprefix("/")
            for part, name in parts.items()
            if not _has_weights(folder / part, name, variant)
            for pattern in _patterns(name, suffix, variant)
        ]
        if lacking:
            fetch(source, lacking, revision=folder.name)


def _has_weights(folder: Path, name: WeightsName, variant: str | None) -> bool:
    try:
        return bool(find_weights(folder, name, variant))
    except FileNotFoundError:
        return False


def _patterns(name: WeightsName, suffix: str, variant: str | None) -> list[str]:
    """Globs of all files that the weights may lie in."""
    stem = name[SUFFIXES.index(suffix)]
    shards = [_file_name(f"{stem}-?????-of-?????", suffix, variant)]
    if variant:
        shards.append(f"{stem}.{variant}-?????-of-?????{suffix}")
    return [_file_name(stem, suffix, variant), *shards, *_index_names(stem, suffix, variant)]


def _file_name(stem: str, suffix: str, variant: str | None) -> str:
    return f"{stem}.{variant}{suffix}" if variant else f"{stem}{suffix}"


def open_tensors(files: Iterable[Path]) -> dict[str, Stored]:
    """The tensors of all `files` by name, unread. Raises FileNotFoundError or ValueError naming a bad file."""
    tensors: dict[str, Stored] = {}
    for path in files:
        tensors |= _open_safetensors(path) if path.suffix == ".safetensors" else _open_torch(path)
    return tensors


def _find(folder: Path, stem: str, suffix: str, variant: str | None) -> list[Path]:
    whole = folder / _file_name(stem, suffix, variant)
    if whole.is_file():
        return [whole]
    for index in _index_names(stem, suffix, variant):
        if (folder / index).is_file():
            return _shards(folder / index)
    return []


def _index_names(stem: str, suffix: str, variant: str | None) -> list[str]:
    """transformers and diffusers have put the variant in two places."""
    index = f"{_file_name(stem, suffix, variant)}.index.json"
    return [index, f"{stem}{suffix}.index.{variant}.json"] if variant else [index]


def _shards(index: Path) -> list[Path]:
    """The files that an index names. Raises ValueError where it is no index, FileNotFoundError where one is missing."""
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{index}: weight_map must map each tensor to its file")
    if outside := [name for name in names.values() if Path(name).name != name]:
        raise ValueError(f"{index}: {outside[0]} is not the name of a file beside it")
    files = [index.parent / name for name in sorted(set(names.values()))]
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file, though {index.name} names it")
    return files


def _open_safetensors(path: Path) -> dict[str, Stored]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        file = safe_open(path, framework="numpy")
        slices = {key: file.get_slice(key) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} {_damage(path, error)}") from None

    def stored(key: str) -> Stored:
        shape, dtype = tuple(slices[key].get_shape()), slices[key].get_dtype()

        def read() -> np.ndarray:
            if dtype not in FLOATS:
                raise ValueError(f"{path}: {key} is stored as {dtype}; allowed: {', '.join(FLOATS)}")
            return file.get_tensor(key)

        return Stored(shape, read)

    return {key: stored(key) for key in slices}


def _open_torch(path: Path) -> dict[str, Stored]:
    name, tensors = read_tensors(path)
    tensors = dict(tensors)

    def stored(key: str) -> Stored:
        if not hasattr(tensors[key], "is_floating_point"):
            raise ValueError(f"{name} must hold nothing but tensors, unlike {key} ({type(tensors[key]).__name__})")

        def read() -> np.ndarray:
            tensor = tensors.pop(key).detach()  # its memory is free once it has been copied
            if not tensor.is_floating_point():
                raise ValueError(f"{name}: {key} is stored as {tensor.dtype}; allowed: floating point")
            return tensor.float().numpy()

        return Stored(tuple(tensors[key].shape), read)

    return {key: stored(key) for key in tensors}


def _damage(path: Path, error: Exception) -> str:
    """What a file that safetensors refuses is."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(b"version https://git-lfs"):
        return "is only the pointer of a Git LFS file: fetch the file itself with git lfs pull"
    if start.startswith(TORCH_MAGIC):
        return "is a PyTorch file named like a safetensors file"
    if _is_text(start):
        return "is a text file, not a safetensors file"
    reason = str(error).removeprefix("Error while deserializing header: ")
    return f"is truncated or damaged, or no safetensors file: {reason}"


def _is_text(start: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(start)  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return "".join(text.split()).isprintable() and bool(text)
