"""Textual inversion (Gal et al., arXiv 2208.01618): vectors that take the place of a token's embedding in a text.

The files of diffusers name the token. Those of AUTOMATIC1111's web UI name it too, or are named after it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxsd.pretrained.hub import fetch
from jaxsd.pretrained.recognize import OTHER_MODELS, SD2, SDXL, recognize_keys
from jaxsd.pretrained.torch_files import TORCH_SUFFIXES, read_torch
from jaxsd.pretrained.weights import SAFETENSORS, open_tensors
from jaxsd.runtime.progress import counted

INVERSION_FILES = ("learned_embeds.safetensors", "learned_embeds.bin")  # diffusers' names, in a folder or a repository
PARAMS, TORCH_PARAMS = "emb_params", "string_to_param"  # the web UI's keys, in safetensors and in PyTorch's files
SDXL_ENCODERS = {"clip_g", "clip_l"}
SD2_WIDTH = 1024


class TextualInversion(NamedTuple):
    """A token of a prompt, the vectors that it stands for, float32, and what they were read from."""

    token: str
    vectors: Float[np.ndarray, "vectors width"]
    source: str


def parse_embedding(argument: str) -> tuple[str, str | None]:
    """`<cat>=cat.safetensors` as source and token; without a token before it, the file's own."""
    token, equals, source = argument.partition("=")
    if not equals or Path(argument).exists():
        return argument, None
    return source, token


def read_textual_inversion(source: str | Path, width: int, token: str | None = None) -> TextualInversion:
    """Read the textual inversion of a Stable Diffusion 1.x.

    Args:
        source: A file (.safetensors, or .pt and .bin of which no code is run), or a folder or Hugging Face repository
            with a file that diffusers named.
        width: That of the text encoder.
        token: In place of the token that the file names or, if it names none, of the file's name without suffix.

    Raises:
        FileNotFoundError, ValueError: Name the file that is missing, damaged or of another model.
    """
    path = _find_inversion(source)
    content = open_tensors([path]) if path.suffix == SAFETENSORS else read_torch(path)[1]
    named, tensor = _token_and_tensor(path, content)
    vectors = _to_vectors(path, tensor)
    if vectors.shape[1] != width:
        whose = f" of {SD2}" if vectors.shape[1] == SD2_WIDTH else ""
        raise ValueError(
            f"{path} is a textual inversion{whose} with vectors of width {vectors.shape[1]}; this model's text encoder "
            f"has {width}"
        )
    token = named if token is None else token
    if not token.strip():
        raise ValueError(f"the token of {path} is {token!r}; allowed: a word, <token>={path.name}")
    return TextualInversion(token, vectors, str(source))


def _find_inversion(source: str | Path) -> Path:
    path = Path(source)
    if path.is_file() or path.suffix in (SAFETENSORS, *TORCH_SUFFIXES):
        return path
    folder = fetch(source, INVERSION_FILES)
    for name in INVERSION_FILES:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"{source} holds no textual inversion; allowed: a file, or a folder with {' or '.join(INVERSION_FILES)}"
    )


def _token_and_tensor(path: Path, content: Mapping[str, Any]) -> tuple[str, Any]:
    """The token that a file names and what it holds of it."""
    if SDXL_ENCODERS & content.keys():
        raise ValueError(f"{path} is a textual inversion of {SDXL}; allowed: one of Stable Diffusion 1.x")
    if PARAMS in content:
        return path.stem, content[PARAMS]
    if TORCH_PARAMS in content:
        params = content[TORCH_PARAMS]
        if not isinstance(params, Mapping) or len(params) != 1:
            raise ValueError(f"{path}: {TORCH_PARAMS} must map one name to a tensor")
        (tensor,) = params.values()
        return str(content.get("name") or path.stem), tensor
    if other := recognize_keys(content, OTHER_MODELS):
        raise ValueError(f"{path} is {other}, not a textual inversion")
    if len(content) != 1:
        raise ValueError(
            f"{path} is no textual inversion: it has {counted(len(content), 'key')}; allowed: {PARAMS}, "
            f"{TORCH_PARAMS}, or one token"
        )
    ((token, tensor),) = content.items()
    return token, tensor


def _to_vectors(path: Path, tensor: Any) -> Float[np.ndarray, "vectors width"]:
    if hasattr(tensor, "detach"):  # of torch; NumPy has no bfloat16
        tensor = tensor.detach().float()
    elif not hasattr(tensor, "read"):
        raise ValueError(f"{path} is no textual inversion: it holds a {type(tensor).__name__} in place of a tensor")
    vectors = np.asarray(tensor).astype(np.float32)
    vectors = vectors[None] if vectors.ndim == 1 else vectors
    if vectors.ndim != 2 or not vectors.size:
        raise ValueError(f"{path} has a tensor of shape {vectors.shape}; allowed: (vectors, width)")
    if not np.isfinite(vectors).all():
        raise ValueError(f"{path} has values that are not finite")
    return vectors
