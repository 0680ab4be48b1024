"""Encoders in folders: encoder.json (the encoder's name and sizes) beside model.safetensors (its parameters)."""

import difflib
import importlib.util
import json
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx
from jax.typing import DTypeLike
from safetensors import SafetensorError, safe_open

from encoders.catalog import ENCODERS
from encoders.layers import abstract
from encoders.model_spec import model_spec, with_metadata
from encoders.registry import bundled_name, create_from_class, size_names
from encoders.user_code import code_of, load_class

ENCODER_JSON, ENCODER_WEIGHTS = "encoder.json", "model.safetensors"
AUDIO_POOLINGS = ("mean", "first", "last")  # of the 77 vectors, where one vector of a clip is compared with CLIP's
MODEL_SPEC_ARCHITECTURE = "jaxsd-encoder"  # of all encoders; the name follows
READ_DTYPES = ("F16", "BF16", "F32", "F64")  # safetensors' names of the dtypes that are read
POINTER_START = b"version https://git-lfs"  # how the file begins that stands in place of a large file
LOCAL_FOLDERS = ("runs", "out")  # where the commands write: a name that begins so is no repository on the hub
NOT_SIZE_KEYS = ("encoder", "audio_pooling", "code")  # of encoder.json; all others are sizes


def save(
    encoder: nnx.Module, folder: str | Path, *, dtype: DTypeLike = jnp.float32, audio_pooling: str = "mean"
) -> None:
    """Write encoder.json and model.safetensors into `folder`, which is made if it is missing.

    Tensors are named by their dotted path in the module. Each file is replaced in one move, encoder.json last.

    Args:
        encoder: a bundled encoder, or one of a class at the top level of a Python file; see `encoders.AudioEncoder`.
        folder: where to write.
        dtype: of the tensors in the file, float32 or float16.
        audio_pooling: how training pooled the 77 vectors: "mean", "first" or "last".

    Raises:
        ValueError: for another dtype or pooling, for an encoder that `load` could not give back (`describe_encoder`
            says why), and for a parameter that is not finite or beyond the range of `dtype`. Nothing is written then.
    """
    if jnp.dtype(dtype) not in (jnp.float32, jnp.float16):
        raise ValueError(f"cannot save as {jnp.dtype(dtype)}: choose float32 or float16")
    description = describe_encoder(encoder, audio_pooling=audio_pooling)
    tensors = {key: _cast(key, jax.device_get(p[...]), dtype) for key, p in _parameters(encoder).items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    metadata = model_spec(description["encoder"], f"{MODEL_SPEC_ARCHITECTURE}/{description['encoder']}")
    _replace(folder / ENCODER_WEIGHTS, with_metadata(safetensors.numpy.save(tensors), metadata))
    _replace(folder / ENCODER_JSON, (json.dumps(description, indent=2) + "\n").encode())


def describe_encoder(encoder: nnx.Module, *, audio_pooling: str = "mean") -> dict[str, Any]:
    """The content of the encoder.json of an encoder; call it before training to know that `save` will work.

    It holds the encoder's name, `audio_pooling`, the sizes, and for a class of one's own the path and the SHA-256 of
    its code. Raises ValueError, in one sentence, where `load` could not give the encoder back: for state besides
    parameters, for sizes that are lost or that JSON cannot hold, and for a class that stands in no file.
    """
    _check_audio_pooling(audio_pooling)
    cls = type(encoder)
    description: dict[str, Any] = {"encoder": bundled_name(cls), "audio_pooling": audio_pooling}
    if description["encoder"] is None:
        code = code_of(cls)
        description["encoder"] = f"{code.path.name}:{cls.__name__}"
        description["code"] = {"path": str(code.path), "sha256": code.sha256}
    shapes, sizes = _shapes(encoder), _checked_sizes(encoder)
    if problem := _mismatch(_shapes(_abstract(cls, sizes)), shapes):
        raise ValueError(
            f"cannot save {cls.__name__}: one made again from its sizes {sizes} would differ ({problem}); let its "
            "property `config` return every keyword argument that it was made with"
        )
    return description | sizes


def load(source: str | Path, *, dtype: DTypeLike = jnp.float32, trust_code: bool = False) -> nnx.Module:
    """An encoder with float32 parameters, in evaluation mode.

    Args:
        source: a folder that `save` wrote, the name of a bundled trained encoder ("gemini"), or the id of a Hugging
            Face repository ("owner/name"). A folder goes before a bundled encoder of the same name.
        dtype: what the encoder computes in.
        trust_code: whether to run the Python file that encoder.json names, where the encoder is a class of one's own.

    Raises:
        FileNotFoundError: if a folder, a file or the code cannot be found.
        ValueError: if the content of a file does not fit, if the code has changed since the encoder was saved, and if
            loading would run code without `trust_code`. Each error is one sentence that names the file.
    """
    path = find_encoder_file(source, ENCODER_JSON)
    description = _read_description(path)
    cls = _find_trusted_class(source, path, description, trust_code)
    sizes = {key: value for key, value in description.items() if key not in NOT_SIZE_KEYS}
    try:
        encoder = _abstract(cls, sizes, dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} does not describe an encoder: {error}") from error
    tensors = _read_tensors(find_encoder_file(source, ENCODER_WEIGHTS), _shapes(encoder))
    graphdef, state = nnx.split(encoder)
    filled = [(path, p.replace(tensors[_dotted(path)])) for path, p in nnx.to_flat_state(state)]
    return nnx.merge(graphdef, nnx.from_flat_state(filled))


def read_config(source: str | Path) -> dict[str, Any]:
    """The checked content of encoder.json, without loading parameters or running code; `source` is that of `load`.

    Its keys are "encoder" (the name), "audio_pooling" ("mean" where an older file says nothing), the sizes, and for a
    class of one's own "code", an object of "path" and "sha256". Raises FileNotFoundError or ValueError as `load` does.
    """
    return _read_description(find_encoder_file(source, ENCODER_JSON))


def bundled_encoders() -> dict[str, Path]:
    """The folders of the trained encoders that come with an installed `jaxsd`, by name; none without it."""
    spec = importlib.util.find_spec("jaxsd")  # finds the package and imports nothing
    roots = [Path(root) / "toy" / "encoders" for root in (spec.submodule_search_locations or ())] if spec else []
    return {path.parent.name: path.parent for root in roots for path in sorted(root.glob(f"*/{ENCODER_JSON}"))}


# --- encoder.json ---------------------------------------------------------------------------------------------------


def _read_description(path: Path) -> dict[str, Any]:
    _refuse_pointer(path)
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError(f"it holds a JSON {type(content).__name__}, not an object")
        description = {"audio_pooling": "mean"} | content
        _check_audio_pooling(description["audio_pooling"])
        name = description.get("encoder")
        if "code" not in description:
            if not isinstance(name, str) or name not in ENCODERS:
                raise ValueError(f"unknown encoder {name!r}; choose from {', '.join(ENCODERS)}")
            return description
        if not isinstance(name, str) or not re.fullmatch(r"[^/\\:]+\.py:\w+", name):
            raise ValueError(f"encoder is {name!r}; allowed beside code: a name such as my_encoder.py:MyEncoder")
        code = description["code"]
        if not (isinstance(code, dict) and isinstance(code.get("path"), str) and isinstance(code.get("sha256"), str)):
            raise ValueError(f"code is {code!r}; allowed: an object of path and sha256")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} does not describe an encoder: {error}") from error
    return description


def _find_trusted_class(
    source: str | Path, path: Path, description: Mapping[str, Any], trust_code: bool
) -> type[nnx.Module]:
    """The class of the encoder.json at `path`. Code is run only if it is trusted and is what it was when it was saved.

    A copy of the code beside encoder.json goes before the file that was saved: it may have come from another machine.
    """
    if "code" not in description:
        return ENCODERS[description["encoder"]]
    file_name, class_name = description["encoder"].split(":")
    code = Path(description["code"]["path"])
    try:
        code = find_encoder_file(source, file_name)
    except FileNotFoundError:
        if not code.is_file():
            raise FileNotFoundError(
                f"{source} needs the code {file_name}, which is neither beside {ENCODER_JSON} nor at {code}"
            ) from None
    if not trust_code:
        raise ValueError(
            f"to load {source} would run the code in {code}; if you trust that code, allow it with --trust-code "
            "(trust_code=True in Python)"
        )
    try:
        return load_class(code, class_name, description["code"]["sha256"])
    except ValueError as error:
        raise ValueError(f"{source} cannot be loaded: {error}") from error


def _check_audio_pooling(audio_pooling: Any) -> None:
    if audio_pooling not in AUDIO_POOLINGS:
        raise ValueError(f"audio_pooling is {audio_pooling!r}; allowed: {', '.join(AUDIO_POOLINGS)}")


def _checked_sizes(encoder: nnx.Module) -> dict[str, Any]:
    """The sizes for encoder.json, which must be the same when they are read again."""
    cls = type(encoder)
    sizes = getattr(encoder, "config", None)
    if sizes is None:
        if names := size_names(cls):
            raise ValueError(
                f"cannot save {cls.__name__}: it takes {', '.join(names)}, and no property `config` returns them"
            )
        return {}
    if not isinstance(sizes, Mapping):
        raise ValueError(f"cannot save {cls.__name__}: its `config` is a {type(sizes).__name__}, not a dict of sizes")
    for key, value in sizes.items():
        if key in NOT_SIZE_KEYS:
            raise ValueError(f"cannot save {cls.__name__}: encoder.json has another use for {key!r}, so no size may be")
        try:
            kept = json.loads(json.dumps({key: value}, allow_nan=False)) == {key: value}
        except (TypeError, ValueError):
            kept = False
        if not kept:
            raise ValueError(f"cannot save {cls.__name__}: its size {key} is {value!r}, which JSON cannot hold")
    return dict(sizes)


# --- files ----------------------------------------------------------------------------------------------------------


def find_encoder_file(source: str | Path, name: str) -> Path:
    """The path of a file in a folder, of a bundled encoder, or downloaded from a Hugging Face repository."""
    folder = Path(source)
    if not folder.is_dir() and (bundled := bundled_encoders().get(str(source))):
        folder = bundled
    if folder.is_dir():
        if not (folder / name).is_file():
            begun = (folder / "config.json").is_file()
            hint = "; the training that began there writes it with its first checkpoint" if begun else ""
            raise FileNotFoundError(f"{folder} has no {name}{hint}")
        return folder / name
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(source)):
        if folder.suffix == ".py" or ".py:" in str(source):
            raise ValueError(f"{source} is code, and not a trained encoder; name the folder that its training left")
        alike = difflib.get_close_matches(str(source).lower(), bundled_encoders(), n=1)
        mend = f"the bundled encoders are {', '.join(bundled_encoders()) or 'not installed'}"
        raise FileNotFoundError(
            f"no folder {source}, and no Hugging Face repository can be named so; "
            + (f"did you mean {alike[0]}?" if alike else mend)
        )
    if folder.parent.is_dir() or folder.parent.name in LOCAL_FOLDERS:  # a path, and not looked up on the hub
        names = sorted(path.parent.name for path in folder.parent.glob(f"*/{ENCODER_JSON}"))
        alike = difflib.get_close_matches(folder.name, names, n=1)
        others = f"; the encoders in {folder.parent} are {', '.join(names)}" if names else ""
        hint = f"; did you mean {folder.parent / alike[0]}?" if alike else others
        raise FileNotFoundError(f"no folder {source}{hint}")
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(str(source), name))
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"{source} is no folder, and {name} cannot be had from a Hugging Face repository of that name: {reason}"
        ) from error


def _refuse_pointer(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(POINTER_START)) == POINTER_START:
            raise ValueError(f"{path} is a Git LFS pointer and not the file itself, which `git lfs pull` fetches")


def _replace(path: Path, content: bytes) -> None:
    """Write a file in one move: a reader, and a crash, see the old file or the whole new one."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:  # which names no file where the disk is full
        raise OSError(error.errno, error.strerror, error.filename or str(path)) from error
    finally:
        part.unlink(missing_ok=True)


# --- parameters -----------------------------------------------------------------------------------------------------


def _abstract(cls: type[nnx.Module], sizes: Mapping[str, Any], dtype: DTypeLike = jnp.float32) -> nnx.Module:
    """An encoder with shapes for parameters."""
    return abstract(partial(create_from_class, cls, **sizes, dtype=dtype))


def _dotted(path: tuple) -> str:
    return ".".join(map(str, path))


def _parameters(encoder: nnx.Module) -> dict[str, nnx.Param]:
    """The parameters by dotted path. Raises ValueError for any other state."""
    state = {_dotted(path): value for path, value in nnx.to_flat_state(nnx.state(encoder))}
    for key, value in state.items():
        if not isinstance(value, nnx.Param):
            raise ValueError(
                f"cannot save {type(encoder).__name__}: {key} is state of type {type(value).__name__}, and a folder "
                "holds only parameters (nnx.Param)"
            )
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(f"cannot save {type(encoder).__name__}: {key} is of {value.dtype}, not floating point")
    return state


def _shapes(encoder: nnx.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(p.shape) for key, p in _parameters(encoder).items()}


def _cast(key: str, value: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    if not np.isfinite(value).all():
        raise ValueError(f"the encoder's parameter {key} has values that are not finite (NaN or infinity)")
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(value, dtype)
    if not np.isfinite(cast).all():
        raise ValueError(
            f"the encoder's parameter {key} has values beyond the range of {jnp.dtype(dtype)}: save it as float32"
        )
    return cast


def _read_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, jax.Array]:
    """Tensors as float32, exactly those of `shapes`, and all finite."""
    _refuse_pointer(path)
    try:
        with safe_open(path, framework="flax") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}
            if problem := _mismatch(shapes, {key: tuple(part.get_shape()) for key, part in slices.items()}):
                raise ValueError(f"{path}: {problem}")
            for key, part in slices.items():
                if part.get_dtype() not in READ_DTYPES:
                    raise ValueError(f"{path}: {key} is of {part.get_dtype()}; allowed: {', '.join(READ_DTYPES)}")
            tensors = {key: jnp.asarray(file.get_tensor(key), jnp.float32) for key in shapes}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    for key, value in tensors.items():
        if not jnp.isfinite(value).all():
            raise ValueError(f"{path}: {key} has values that are not finite")
    return tensors


def _mismatch(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str:
    """What is missing, unknown or of another shape, the first three of each; empty where all fits."""
    problems = [f"{key} is missing" for key in wanted if key not in found]
    problems += [f"{key} is not a parameter of this encoder" for key in found if key not in wanted]
    problems += [
        f"{key} has shape {found[key]} instead of {shape}"
        for key, shape in wanted.items()
        if key in found and found[key] != shape
    ]
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return ", ".join(problems[:3]) + more
