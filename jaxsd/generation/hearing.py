"""What an encoder hears in a sound: the class of the toy world whose caption is nearest.

Nothing here is compiled, so that a command says what was heard without making anybody wait.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxsd.clip.pipeline import CLIP
from jaxsd.pretrained.weights import open_tensors, write_safetensors
from jaxsd.runtime.bundled import TOY_CAPTIONS, TOY_MODEL
from jaxsd.toy import world

TEMPERATURE = 0.07  # of the paper's contrastive loss, at which cosines become shares
KNOWN = 0.5  # a sound of one of the ten things has at least this share


class Heard(NamedTuple):
    """The class whose caption is nearest to a sound.

    share: of that class among the ten, 0 to 1. cosine: of the sound and that caption, -1 to 1.
    """

    class_name: str
    share: float
    cosine: float


def hear(embeddings: Float[np.ndarray, "sounds 77 width"]) -> list[Heard]:
    """The class that is nearest to each sound, by the cosine of the sound's and the captions' CLIP embeddings.

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
    return [
        Heard(world.CLASSES[best], float(share[best]), float(cosine[best]))
        for best, share, cosine in zip(cosines.argmax(axis=1), shares, cosines, strict=True)
    ]


def describe_heard(embeddings: Float[np.ndarray, "sounds 77 width"]) -> list[str]:
    """What is heard in each sound, in words for people: the nearest class, or that the sound is like none of the ten.

    A sound of another thing may be near to a class all the same.
    """
    return [_in_words(world.class_caption(heard.class_name), heard.share) for heard in hear(embeddings)]


def _in_words(caption: str, share: float) -> str:
    nearest = f"{caption} ({share:.0%} among the ten things of the toy world)"
    return f"sounds like {nearest}" if share >= KNOWN else f"sounds like none of them; the nearest is {nearest}"


def write_captions(path: str | Path, clip: CLIP) -> None:
    """Write the CLIP embeddings of the captions that name a class alone: `embeddings`, float32 (10, 128)."""
    captions = [world.class_caption(name) for name in world.CLASSES]
    write_safetensors({"embeddings": np.asarray(clip.embed_text(captions))}, path)


def _read(path: Path, name: str) -> np.ndarray:
    """A tensor of a file as float32."""
    return np.asarray(open_tensors([path])[name], np.float32)
