"""Audio-conditioned image generation and Stable Diffusion 1.x in JAX.

Importing it turns on JAX's compilation cache (`jaxsd.runtime.cli.keep_compiled`), so that the next process starts
faster. The environment variable JAX_ENABLE_COMPILATION_CACHE=false turns it off, and so does
`jax.config.update("jax_enable_compilation_cache", False)`.
"""

import importlib
import os
import warnings
from typing import TYPE_CHECKING

from jaxsd.runtime.cli import keep_compiled

if TYPE_CHECKING:
    from jaxsd.clip.pipeline import CLIP
    from jaxsd.diffusion.pipeline import StableDiffusion
    from jaxsd.sound_to_image import SoundToImage

keep_compiled()
# In a notebook without ipywidgets, tqdm says so when librosa imports it, which draws no progress.
warnings.filterwarnings("ignore", "IProgress not found")
# transformers is here for its tokenizer: that torch is missing is no news.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

# Each is imported when it is first asked for: a script's --help need not wait for JAX.
_MODULES = {
    "CLIP": "jaxsd.clip.pipeline",
    "SoundToImage": "jaxsd.sound_to_image",
    "StableDiffusion": "jaxsd.diffusion.pipeline",
}

__all__ = ["CLIP", "SoundToImage", "StableDiffusion"]


def __getattr__(name: str):
    if name == "__version__":
        from importlib.metadata import version

        return version("jaxsd")
    if name not in _MODULES:
        raise AttributeError(f"module 'jaxsd' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
