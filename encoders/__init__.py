"""Five audio encoders that map one second of sound to the shape of CLIP's text embedding (arXiv 2509.09717).

A clip in, an embedding out:

    enc = encoders.create("gemini", rngs=nnx.Rngs(0))
    y = enc(pcm)  # (batch, 16000) int16 -> (batch, 77, 768) float32
    encoders.save(enc, "out/")
    enc = encoders.load("out/")

`python -m encoders NAME` checks one and counts its layers.
"""

from encoders.chatgpt import ChatGPT
from encoders.deepseek import DeepSeek
from encoders.gemini import Gemini
from encoders.grok import Grok
from encoders.human import Human
from encoders.store import ENCODERS, create, load, save

__all__ = ["ENCODERS", "ChatGPT", "DeepSeek", "Gemini", "Grok", "Human", "create", "load", "save"]
