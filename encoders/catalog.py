"""All encoders by name: the bundled ones, which importing this module registers, and those in users' files."""

import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

from flax import nnx

# isort: off
from encoders.human import Human  # the order of the paper's Table 2, and so of ENCODERS
from encoders.chatgpt import ChatGPT
from encoders.deepseek import DeepSeek
from encoders.gemini import Gemini
from encoders.grok import Grok

# isort: on
from encoders.registry import ENCODERS, create_from_class
from encoders.user_code import load_class

for _module in pkgutil.iter_modules([str(Path(__file__).parent)]):
    if not _module.name.startswith("_"):
        importlib.import_module(f"encoders.{_module.name}")

__all__ = ["ENCODERS", "ChatGPT", "DeepSeek", "Gemini", "Grok", "Human", "create", "find_class"]


def find_class(name: str) -> type[nnx.Module]:
    """The class of a bundled encoder, or the class in a user's file, whose code this runs.

    Args:
        name: "gemini", "my_encoder.py:MyEncoder", or "my_encoder.py" where that file holds one public NNX module class.

    Raises:
        ValueError: for an unknown name, and for a file that cannot be imported or has no such class.
    """
    if name in ENCODERS:
        return ENCODERS[name]
    own = re.fullmatch(r"(.*\.py)(?::(\w+))?", name)
    if not own:
        raise ValueError(f"unknown encoder {name!r}; choose from {', '.join(ENCODERS)}, or give your own FILE.py:Class")
    return load_class(Path(own[1]), own[2])


def create(name: str, *, rngs: nnx.Rngs, **config: Any) -> nnx.Module:
    """A new encoder in evaluation mode.

    Args:
        name: a key of `ENCODERS` ("gemini"), or an own class, "my_encoder.py:MyEncoder", whose code this runs.
        rngs: the source of the first values.
        **config: keyword arguments of the class: its sizes (by default the paper's), `dtype` and `param_dtype`. A class
            of one's own that takes no `dtype` is made without it and computes in its own.

    Raises:
        ValueError: for an unknown name, a size that the class does not take, and sizes that the encoder's `config`
            would not return, for these would be lost in its folder.
    """
    return create_from_class(find_class(name), rngs=rngs, **config)
