"""What images are made of, read from files before any model is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int16
from PIL import Image

from jaxsd.clip.images import load_image
from jaxsd.generation.files import slug
from jaxsd.runtime.bundled import sound_source
from jaxsd.sound_to_image import LoadedSound, load_sounds


@dataclass(frozen=True)
class Inputs:
    """What images are made of.

    prompts: one for all sounds, one each, or without sounds. stems: what the files are named after. image: the image to
    start from, or None.
    """

    sounds: Sequence[LoadedSound]
    prompts: Sequence[str]
    stems: Sequence[str]
    image: Image.Image | None

    @property
    def clips(self) -> Int16[np.ndarray, "sounds 16000"] | None:
        """The seconds that are taken, or None without sounds."""
        return np.stack([sound.clip.samples for sound in self.sounds]) if self.sounds else None


def read_inputs(
    sounds: Sequence[str], prompts: Sequence[str], image: str | None, *, mix: bool = False, random: bool = False
) -> Inputs:
    """Read the files; stderr says which second of a longer sound is taken.

    With `mix`, all sounds make one image, which is named after all of them. With `random`, there is neither sound nor
    prompt.

    Raises ValueError or FileNotFoundError that names the file or the argument that does not fit.
    """
    if random and (sounds or prompts):
        raise ValueError("--random takes the place of sounds and texts; leave --audio and --text out")
    if not sounds and not prompts and not random:
        raise ValueError("there is neither a sound nor a text to make an image of; give --audio, --text or both")
    images = 1 if mix else len(sounds)
    if sounds and len(prompts) not in (0, 1, images):
        mixed = " mixed into one" if mix else ""
        raise ValueError(
            f"texts are {len(prompts)} and sounds are {len(sounds)}{mixed}; allowed: as many, or one for all"
        )
    paths = [sound_source(sound) for sound in sounds]
    return Inputs(
        sounds=load_sounds(paths) if paths else [],
        prompts=prompts,
        stems=["random"] if random else _stems(paths, prompts, mix),
        image=None if image is None else load_image(image),
    )


def _stems(paths: Sequence[Path], prompts: Sequence[str], mix: bool) -> list[str]:
    stems = [path.stem for path in paths]
    if mix and stems:
        return ["+".join(stems)[:100]]
    return stems or [slug(prompt) for prompt in prompts]
