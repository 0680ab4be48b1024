"""Audio encoders that map one second of sound to the shape of CLIP's text embedding (arXiv 2509.09717).

    encoder = encoders.create("gemini", rngs=nnx.Rngs(0))  # or "my_encoder.py:MyEncoder"
    embeddings = encoder(clips)  # (batch, 16000) int16 -> (batch, 77, 768) float32
    encoders.save(encoder, "out/")
    encoder = encoders.load("out/")

`ENCODERS` maps the names of the bundled encoders to their classes. Every module of this package that registers a class
is found (`encoders.catalog`). `encoders.base.AudioEncoder` says what an encoder of your own must have.

`python -m encoders` lists the bundled encoders; `python -m encoders NAME` checks one and counts its layers.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from encoders.base import AudioEncoder
    from encoders.catalog import ENCODERS, ChatGPT, DeepSeek, Gemini, Grok, Human, create
    from encoders.registry import register
    from encoders.store import describe_encoder, load, read_config, save

# Each is imported when it is first asked for: who needs a module of this package need not load all encoders.
_HOMES = {
    "encoders.base": ("AudioEncoder",),
    "encoders.catalog": ("ENCODERS", "ChatGPT", "DeepSeek", "Gemini", "Grok", "Human", "create"),
    "encoders.registry": ("register",),
    "encoders.store": ("describe_encoder", "load", "read_config", "save"),
}

__all__ = [
    "ENCODERS",
    "ChatGPT",
    "DeepSeek",
    "AudioEncoder",
    "Gemini",
    "Grok",
    "Human",
    "create",
    "describe_encoder",
    "load",
    "read_config",
    "register",
    "save",
]


def __getattr__(name: str):
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'encoders' has no attribute {name!r}")
