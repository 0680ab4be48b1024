"""Encoders by name, and their folders: encoder.json (name and sizes) beside model.safetensors (parameters)."""

import json
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from encoders.chatgpt import ChatGPT
from encoders.deepseek import DeepSeek
from encoders.gemini import Gemini
from encoders.grok import Grok
from encoders.human import Human
from encoders.layers import abstract

ENCODERS: dict[str, type[nnx.Module]] = {
    "human": Human,
    "chatgpt": ChatGPT,
    "deepseek": DeepSeek,
    "gemini": Gemini,
    "grok": Grok,
}
CONFIG, WEIGHTS = "encoder.json", "model.safetensors"


def create(name: str, *, rngs: nnx.Rngs, **config) -> nnx.Module:
    """A new encoder: "human", "chatgpt", "deepseek", "gemini" or "grok".

    Keyword arguments go to the class: its sizes (the paper's by default), dtype and param_dtype.
    Raises ValueError for an unknown name.
    """
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}; choose from {', '.join(ENCODERS)}")
    return ENCODERS[name](**config, rngs=rngs)


def save(encoder: nnx.Module, folder: str | Path, *, dtype: DTypeLike = jnp.float32) -> None:
    """Write encoder.json and model.safetensors into `folder`, made if missing.

    Tensors are named by their dotted path in the module. `dtype` is float32 or float16.
    Raises ValueError for another dtype, for a module that is no bundled encoder, and for values beyond the dtype.
    """
    names = {cls: name for name, cls in ENCODERS.items()}
    if type(encoder) not in names:
        raise ValueError(f"cannot save {type(encoder).__name__}: not one of {', '.join(ENCODERS)}")
    if jnp.dtype(dtype) not in (jnp.float32, jnp.float16):
        raise ValueError(f"cannot save as {jnp.dtype(dtype)}: choose float32 or float16")
    tensors = {key: _cast(key, jax.device_get(p[...]), dtype) for key, p in _parameters(encoder).items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / WEIGHTS)
    description = {"encoder": names[type(encoder)], **encoder.config}
    (folder / CONFIG).write_text(json.dumps(description, indent=2) + "\n")


def load(source: str | Path, *, dtype: DTypeLike = jnp.float32) -> nnx.Module:
    """The encoder in a folder or Hugging Face repository, with float32 parameters, computing in `dtype`.

    Raises FileNotFoundError if a file cannot be found and ValueError if its content does not fit; both name the file.
    """
    config, weights = (_find(source, name) for name in (CONFIG, WEIGHTS))
    encoder = _abstract(config, dtype)
    graphdef, state = nnx.split(encoder)
    parameters = dict(nnx.to_flat_state(state))
    shapes = {".".join(map(str, path)): p.shape for path, p in parameters.items()}
    tensors = _read(weights, shapes)
    filled = {path: p.replace(tensors[".".join(map(str, path))]) for path, p in parameters.items()}
    return nnx.merge(graphdef, nnx.from_flat_state(filled))


def _parameters(encoder: nnx.Module) -> dict[str, nnx.Param]:
    return {".".join(map(str, path)): p for path, p in nnx.to_flat_state(nnx.state(encoder, nnx.Param))}


def _cast(key: str, value: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(value, dtype)
    if not np.array_equal(np.isfinite(cast), np.isfinite(value)):
        raise ValueError(f"{key} has values beyond the range of {jnp.dtype(dtype)}")
    return cast


def _find(source: str | Path, name: str) -> Path:
    """The path of a file in a folder, or downloaded from the Hugging Face repository of that id."""
    folder = Path(source)
    if folder.is_dir():
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}")
        return folder / name
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(source)):
        raise FileNotFoundError(f"no folder {source}, and no Hugging Face repository can be named so")
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(str(source), name))
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"{source} is no folder, and {name} cannot be had from a Hugging Face repository of that name: {reason}"
        ) from error


def _abstract(config: Path, dtype: DTypeLike) -> nnx.Module:
    """The encoder that encoder.json describes, with shapes for parameters."""
    try:
        sizes = dict(json.loads(config.read_text()))
        name = sizes.pop("encoder", None)
        for key, size in sizes.items():
            if type(size) is not int or size < 1:
                raise ValueError(f"{key} must be a positive integer, not {size!r}")
        return abstract(partial(create, name, **sizes, dtype=dtype))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{config} does not describe an encoder: {error}") from error


def _read(weights: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, jax.Array]:
    """Tensors as float32, exactly those of `shapes`."""
    try:
        with safe_open(weights, framework="flax") as file:
            found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
            if problem := _difference(shapes, found):
                raise ValueError(f"{weights}: {problem}")
            return {key: jnp.asarray(file.get_tensor(key), jnp.float32) for key in shapes}
    except SafetensorError as error:
        raise ValueError(f"{weights} is not a safetensors file: {error}") from error


def _difference(wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> str:
    problems = [f"{key} is missing" for key in wanted if key not in found]
    problems += [f"{key} is not a parameter of this encoder" for key in found if key not in wanted]
    problems += [
        f"{key} has shape {found[key]} instead of {shape}"
        for key, shape in wanted.items()
        if key in found and found[key] != shape
    ]
    more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
    return ", ".join(problems[:3]) + more
