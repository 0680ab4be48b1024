"""Files of weights: safetensors and PyTorch's, whole or in shards as Hugging Face lays them out.

The weights of a component are one file, or several ("shards") that a JSON index lists. Safetensors files are preferred
to PyTorch's. Tensors are read one at a time. Whatever is wrong with a file is one sentence that names the file.
"""

import codecs
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from encoders.model_spec import with_metadata
from jaxsd.pretrained.hub import fetch
from jaxsd.pretrained.mapping import Model, Rule, abstract_model, import_parameters, parameters
from jaxsd.pretrained.recognize import OTHER_MODELS, recognize_keys
from jaxsd.pretrained.torch_files import TORCH_SUFFIXES, read_torch
from jaxsd.runtime.files import check_not_pointer, read_json, replacing

SAFETENSORS = ".safetensors"
WEIGHTS_SUFFIXES = (SAFETENSORS, ".bin")  # the preferred one first, in the order of WeightsName
TORCH_MAGIC = (b"PK\x03\x04", b"\x80\x02\x8a\n")  # the first bytes of torch.save's files since 1.6, and before
COMMON_VARIANT = "fp16"  # what a repository has that has one variant alone
FLOATS = ("F64", "F32", "F16", "BF16")


class WeightsName(NamedTuple):
    """What a library calls the weights of a component, without suffix and variant."""

    safetensors: str
    torch: str

    @property
    def file(self) -> str:
        return self.safetensors + SAFETENSORS


TRANSFORMERS_WEIGHTS = WeightsName("model", "pytorch_model")
DIFFUSERS_WEIGHTS = WeightsName("diffusion_pytorch_model", "diffusion_pytorch_model")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that still lies in a file. Its shape is known; `numpy.asarray` reads its values."""

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.read()


def load_weights(
    files: list[Path],
    mapping: Iterable[Rule],
    make: Callable[..., Model],
    dtype: DTypeLike,
    ignore: Iterable[str] = (),
    *,
    wanted: str,
    others: Iterable[tuple[str, str]] = OTHER_MODELS,
) -> Model:
    """Fill the module that `make(rngs=...)` makes from `files`.

    Beside what has been filled, one tensor at a time is held in host memory. PyTorch's files are the exception: they
    are held once, less what has been filled.

    Args:
        files: The files that hold the tensors.
        mapping: From the names in the files to ours.
        make: Makes the module; only its shapes are used.
        dtype: Of all parameters.
        ignore: Regexes of names in the files that carry no parameter.
        wanted: What the model is, for errors.
        others: What else the files might be: a name and a regex of keys that tell so.

    Raises:
        FileNotFoundError, ValueError: Name the file that is missing, damaged, of another model, or does not fit.
    """
    name = str(files[0] if len(files) == 1 else files[0].parent)
    tensors = open_tensors(files)
    if other := recognize_keys(tensors, others):
        raise ValueError(f"{name} is {other}, not {wanted}")
    return import_parameters(tensors, mapping, abstract_model(make), ignore, name, dtype)


def read_tensors(source: Path) -> tuple[str, Mapping[str, Any]]:
    """Read the tensors of a checkpoint: a file, a file cut into pieces, or a folder of pieces.

    Returns what errors call the checkpoint, and the tensors by name. Raises FileNotFoundError where there is none, and
    ValueError where it is damaged or holds more than tensors.
    """
    if source.suffix == SAFETENSORS:
        return str(source), {key: np.asarray(tensor) for key, tensor in open_tensors([source]).items()}
    if source.is_file() and source.suffix not in TORCH_SUFFIXES:
        allowed = ", ".join((*TORCH_SUFFIXES, SAFETENSORS))
        raise ValueError(f"{source}: a checkpoint's name must end in {allowed}")
    return read_torch(source)


def write_safetensors(arrays: Mapping[str, np.ndarray], path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file in one move: a reader sees the old file or the whole new one.

    `metadata` goes into its header. Raises ValueError where an array is not finite; then nothing is written.
    """
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            advice = "; in 16 bits they may overflow: save as float32" if array.dtype.itemsize == 2 else ""
            raise ValueError(f"{path} is not written: {name} has values that are not finite (NaN or infinity){advice}")
    with replacing(path) as part:
        part.touch()
        mode = part.stat().st_mode  # what the user's umask allows, where safetensors lets the owner alone read
        try:
            save_file(dict(arrays), part, metadata={"format": "pt"})  # the tag that transformers asks for
            if metadata:
                part.write_bytes(with_metadata(part.read_bytes(), metadata))
        except SafetensorError as error:
            raise OSError(str(error)) from None
        part.chmod(mode)


def write_parameters(model: nnx.Module, path, dtype: DTypeLike = np.float32) -> None:
    """Write the parameters of `model` under their own names."""
    with np.errstate(over="ignore"):  # what overflows is refused
        arrays = {name: np.asarray(value, dtype) for name, value in parameters(model).items()}
    write_safetensors(arrays, path)


def read_parameters(model: Model, path) -> Model:
    """A copy of `model`, which may be abstract, filled from what `write_parameters` wrote."""
    mapping = [Rule(key.replace("{", "{{"), key) for key in parameters(model)]
    return import_parameters(open_tensors([Path(path)]), mapping, model, name=str(path))


def find_weights(folder: Path, name: WeightsName, variant: str | None = None) -> list[Path]:
    """The files of a component's weights.

    Without a `variant`, the only variant that is there is taken where there is nothing else, with a warning. Raises
    FileNotFoundError where there are none or a shard is missing, and ValueError where there are several variants.
    """
    for stem, suffix in zip(name, WEIGHTS_SUFFIXES, strict=True):
        if files := _files_of(folder, stem, suffix, variant):
            return files
    variants = _variants(folder, name)
    if variant is None and len(variants) == 1:
        (only,) = variants
        warnings.warn(f"{folder} has weights of the variant {only} alone, which are taken", stacklevel=2)
        return find_weights(folder, name, only)
    if variants:
        asked = f"no weights of the variant {variant}" if variant else "weights of several variants"
        raise ValueError(f"{folder} has {asked}; choose a variant: {', '.join(sorted(variants))}")
    path = folder / _file_name(name.safetensors, SAFETENSORS, variant)
    raise FileNotFoundError(f"{path}: no such file, nor an index of its shards, nor torch's")


def download_weights(source, folder: Path, parts: Mapping[str, WeightsName], variant: str | None = None) -> None:
    """Download the weights that each part, a subfolder of `folder`, lacks. `folder` is the cached repository `source`.

    The part "" is the folder itself. PyTorch's files are asked for where the repository has no safetensors files, and
    the variant fp16 where no `variant` is asked for and the repository has neither.
    Where `source` is itself a folder, nothing is done.
    """
    if Path(source).is_dir():
        return
    for choice in (variant,) if variant else (None, COMMON_VARIANT):
        for suffix in WEIGHTS_SUFFIXES:
            lacking = [
                f"{part}/{pattern}".removeprefix("/")
                for part, name in parts.items()
                if not _has_weights(folder / part, name, variant)
                for pattern in _patterns(name, suffix, choice)
            ]
            if lacking:
                fetch(source, lacking, revision=folder.name)


def _variants(folder: Path, name: WeightsName) -> set[str]:
    """The variants that the weights in a folder have, such as fp16."""
    found = set()
    for stem, suffix in zip(name, WEIGHTS_SUFFIXES, strict=True):
        for path in folder.glob(f"{stem}.*{suffix}"):
            variant = path.name.removeprefix(f"{stem}.").removesuffix(suffix)
            if shard := re.fullmatch(r"(.+)-\d{5}-of-\d{5}", variant):
                variant = shard[1]
            if not re.fullmatch(r"\d{5}-of-\d{5}", variant):
                found.add(variant)
    return found


def _has_weights(folder: Path, name: WeightsName, variant: str | None) -> bool:
    try:
        with warnings.catch_warnings(action="ignore"):
            return bool(find_weights(folder, name, variant))
    except (FileNotFoundError, ValueError):
        return False


def _patterns(name: WeightsName, suffix: str, variant: str | None) -> list[str]:
    """Globs of all files that the weights may lie in."""
    stem = name[WEIGHTS_SUFFIXES.index(suffix)]
    shards = [_file_name(f"{stem}-?????-of-?????", suffix, variant)]
    if variant:
        shards.append(f"{stem}.{variant}-?????-of-?????{suffix}")
    return [_file_name(stem, suffix, variant), *shards, *_index_names(stem, suffix, variant)]


def _file_name(stem: str, suffix: str, variant: str | None) -> str:
    return f"{stem}.{variant}{suffix}" if variant else f"{stem}{suffix}"


def open_tensors(files: Iterable[Path]) -> dict[str, StoredTensor]:
    """Open all `files`: their tensors by name, unread.

    Raises FileNotFoundError or ValueError that names a bad file, or one with a tensor that another file has too.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in files:
        opened = _open_safetensors(path) if path.suffix == SAFETENSORS else _open_torch(path)
        if twice := tensors.keys() & opened.keys():
            raise ValueError(f"{path}: {min(twice)} is in another file of these weights too")
        tensors |= opened
    return tensors


def _files_of(folder: Path, stem: str, suffix: str, variant: str | None) -> list[Path]:
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


def _open_safetensors(path: Path) -> dict[str, StoredTensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    check_not_pointer(path)
    try:
        file = safe_open(path, framework="numpy")
        slices = {key: file.get_slice(key) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} {_damage(path, error)}") from None

    def stored(key: str) -> StoredTensor:
        shape, dtype = tuple(slices[key].get_shape()), slices[key].get_dtype()

        def read() -> np.ndarray:
            if dtype not in FLOATS:
                raise ValueError(f"{path}: {key} is stored as {dtype}; allowed: {', '.join(FLOATS)}")
            return file.get_tensor(key)

        return StoredTensor(shape, read)

    return {key: stored(key) for key in slices}


def _open_torch(path: Path) -> dict[str, StoredTensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    name, loaded = read_torch(path)
    tensors = dict(loaded)

    def stored(key: str) -> StoredTensor:
        if not hasattr(tensors[key], "is_floating_point"):
            raise ValueError(f"{name} must hold nothing but tensors, unlike {key} ({type(tensors[key]).__name__})")

        def read() -> np.ndarray:
            tensor = tensors.pop(key).detach()  # its memory is free once it has been copied
            if not tensor.is_floating_point():
                raise ValueError(f"{name}: {key} is stored as {tensor.dtype}; allowed: floating point")
            return tensor.float().numpy()

        return StoredTensor(tuple(tensors[key].shape), read)

    return {key: stored(key) for key in tensors}


def _damage(path: Path, error: Exception) -> str:
    """What a file that safetensors refuses is."""
    with path.open("rb") as file:
        start = file.read(512)
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
