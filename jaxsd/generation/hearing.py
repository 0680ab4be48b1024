"""What an encoder hears in a sound: the class of the toy world whose caption is nearest.

Nothing here is compiled, and nothing of the toy world is imported, so that a command says what was heard without making
anybody wait.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from safetensors import safe_open

from jaxsd.pretrained.weights import open_tensors, write_safetensors
from jaxsd.runtime.bundled import TOY_CAPTIONS, TOY_MODEL

TEMPERATURE = 0.07  # of the paper's contrastive loss, at which cosines become shares
KNOWN = 0.5  # a sound of one of the ten things has at least this share


class Heard(NamedTuple):
    """The class whose caption is nearest to a sound.

    share: of that class among the ten, 0 to 1. cosine: of the sound and that caption, -1 to 1.
    """

    class_name: str
    caption: str
    share: float
    cosine: float

    def __str__(self) -> str:
        nearest = f"{self.caption} ({self.share:.0%} among the ten things of the toy world)"
        return (
            f"sounds like {nearest}" if self.share >= KNOWN else f"sounds like none of them; the nearest is {nearest}"
        )


def hear(embeddings: Float[np.ndarray, "sounds 77 width"]) -> list[Heard]:
    """The class that is nearest to each sound, by the cosine of the sound's and the captions' CLIP embeddings.

    A sound of another thing may be near to a class all the same.

    Args:
        embeddings: float32, as a toy world's encoder gives them. Their mean is projected as CLIP projects a text.

    Returns:
        What is heard in each sound.
    """
    projection = _read(TOY_MODEL / "clip" / "model.safetensors", "text_projection.weight")
    pooled = embeddings.mean(axis=1) @ projection.T
    pooled = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    cosines = pooled @ _read(TOY_CAPTIONS, "embeddings").T
    shares = np.exp(cosines / TEMPERATURE)
    shares = shares / shares.sum(axis=1, keepdims=True)
    with safe_open(TOY_CAPTIONS, "numpy") as file:
        captions = json.loads(file.metadata()["captions"])
    names = list(captions)
    return [
        Heard(names[best], captions[names[best]], float(share[best]), float(cosine[best]))
        for best, share, cosine in zip(cosines.argmax(axis=1), shares, cosines, strict=True)
    ]


def write_captions(path: str | Path, captions: dict[str, str], embeddings: Float[np.ndarray, "classes features"]):
    """Write the captions of the classes, by class and in their order, with their CLIP embeddings."""
    write_safetensors({"embeddings": embeddings}, path, {"captions": json.dumps(captions)})


def _read(path: Path, name: str) -> np.ndarray:
    """A tensor of a file as float32."""
    return np.asarray(open_tensors([path])[name], np.float32)
