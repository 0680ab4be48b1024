"""Audio-conditioned image generation and Stable Diffusion 1.x in JAX."""

import importlib

# Imported when first asked for: a script's --help need not wait for JAX.
_PUBLIC = {"CLIP": "jaxsd.clip.pipeline", "StableDiffusion": "jaxsd.diffusion.pipeline"}

__all__ = ["CLIP", "StableDiffusion"]


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module 'jaxsd' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
