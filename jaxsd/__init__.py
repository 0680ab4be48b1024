"""Audio-conditioned image generation and Stable Diffusion 1.x in JAX.

The first use of a class of this package turns on JAX's compilation cache (`jaxsd.cli.keep_compiled`), so that the next
process starts faster; the environment variable JAX_ENABLE_COMPILATION_CACHE=false turns it off.
"""

import importlib
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxsd.clip.pipeline import CLIP
    from jaxsd.diffusion.pipeline import StableDiffusion
    from jaxsd.sound_to_image import SoundToImage

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
    from jaxsd.cli import keep_compiled

    keep_compiled()
    # In a notebook without ipywidgets, tqdm says so when librosa imports it, which draws no progress.
    warnings.filterwarnings("ignore", "IProgress not found")
    return getattr(importlib.import_module(_MODULES[name]), name)
