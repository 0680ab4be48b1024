"""An embedding of sounds and images that is independent of the encoders, for AIS, from a user's own file."""

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int16

from encoders.user_code import load_class

EMBEDDED_TOGETHER = 50  # sounds or images


class AudioImageEmbedding:
    """The class `name` ("FILE.py:Class") of a user's file, whose code this runs.

    It is an NNX module that is made without arguments, loads its own weights, and has two methods: `embed_audio` of
    int16 (n, 16000), 16 kHz mono, and `embed_images` of float32 (n, height, width, 3) in [0, 1]. Both return
    (n, features) of the same features.

    Raises ValueError where the name, the file or the class does not fit.
    """

    def __init__(self, name: str):
        own = re.fullmatch(r"(.*\.py)(?::(\w+))?", name)
        if not own:
            raise ValueError(f"--similarity is {name!r}; allowed: FILE.py:Class")
        self.name, cls = name, load_class(Path(own[1]), own[2])
        missing = [method for method in ("embed_audio", "embed_images") if not hasattr(cls, method)]
        if missing:
            raise ValueError(f"{name} has no method {', '.join(missing)}")
        self._module = cls()

    def embed_audio(self, audio: Int16[np.ndarray, "n 16000"]) -> Float[np.ndarray, "n features"]:
        """Unit-norm embeddings of sounds. Raises ValueError where the module's are not finite or zero."""
        return self._embed("embed_audio", audio)

    def embed_images(self, images: Float[np.ndarray, "n height width 3"]) -> Float[np.ndarray, "n features"]:
        """Likewise of images."""
        return self._embed("embed_images", images)

    def _embed(self, method: str, inputs: np.ndarray) -> Float[np.ndarray, "n features"]:
        parts = [
            np.asarray(getattr(self._module, method)(inputs[first : first + EMBEDDED_TOGETHER]), np.float64)
            for first in range(0, len(inputs), EMBEDDED_TOGETHER)
        ]
        rows = np.concatenate(parts)
        if rows.ndim != 2 or len(rows) != len(inputs):
            raise ValueError(f"{self.name}: {method} returns shape {rows.shape}; it must be ({len(inputs)}, features)")
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        if not (np.isfinite(norms) & (norms > 0)).all():
            raise ValueError(f"{self.name}: {method} makes values that are not finite, or nothing but zeros")
        return rows / norms
