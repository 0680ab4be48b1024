"""The bundled encoders, registered: whoever needs all of them imports this module."""

import importlib
import pkgutil
from pathlib import Path

# isort: off
from encoders.human import Human  # the order of the paper's Table 2, and so of ENCODERS
from encoders.chatgpt import ChatGPT
from encoders.deepseek import DeepSeek
from encoders.gemini import Gemini
from encoders.grok import Grok

# isort: on
from encoders.registry import ENCODERS

for _module in pkgutil.iter_modules([str(Path(__file__).parent)]):
    if not _module.name.startswith("_"):
        importlib.import_module(f"encoders.{_module.name}")

__all__ = ["ENCODERS", "ChatGPT", "DeepSeek", "Gemini", "Grok", "Human"]
