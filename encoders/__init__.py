"""Audio encoders that map one second of sound to the shape of CLIP's text embedding (arXiv 2509.09717).

    encoder = encoders.create("gemini", rngs=nnx.Rngs(0))  # or "my_encoder.py:MyEncoder"
    embeddings = encoder(clips)  # (batch, 16000) int16 -> (batch, 77, 768) float32
    encoders.save(encoder, "out/")
    encoder = encoders.load("out/")

`ENCODERS` maps the names of the bundled encoders to their classes. Every module of this package that registers a class
is found when the package is imported. `encoders.base.AudioEncoder` says what an encoder of your own must have.

`python -m encoders` lists the bundled encoders; `python -m encoders NAME` checks one and counts its layers.
"""

import importlib
import pkgutil

# isort: off
from encoders.human import Human  # the order of the paper's Table 2, and so of ENCODERS
from encoders.chatgpt import ChatGPT
from encoders.deepseek import DeepSeek
from encoders.gemini import Gemini
from encoders.grok import Grok

# isort: on
from encoders.base import AudioEncoder
from encoders.registry import ENCODERS, create, register
from encoders.store import describe_encoder, load, read_config, save

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"encoders.{_module.name}")

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
