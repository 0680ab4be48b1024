"""Sound files to picture files."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import encoders
from jaxsd.audio import load_clip
from jaxsd.diffusion.pipeline import StableDiffusion, to_pil
from jaxsd.toy.bundled import ENCODER, WEIGHTS, find_sound

BATCH = 16  # pictures at a time


def generate(
    sounds: Sequence[str],
    encoder: str | None,
    folder: Path,
    *,
    guidance: float,
    steps: int,
    sampler: str,
    seed: int,
) -> list[Path]:
    """Write one PNG a sound into `folder`, named after it; their paths.

    A picture is a function of its sound and the seed, whatever else is asked for beside it. Every sound is read before
    the first picture is made. Raises ValueError or FileNotFoundError naming the file or the argument that does not
    fit; then nothing is written.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; --out is a folder")
    paths = output_paths(sounds, folder)
    clips = np.stack([load_clip(find_sound(sound)) for sound in sounds])
    audio = encoders.load(encoder or ENCODER)
    pipe = StableDiffusion.from_pretrained(WEIGHTS)
    encode = nnx.jit(lambda model, pcm: model(pcm))
    for start in range(0, len(clips), BATCH):
        rows = encode(audio, clips[start : start + BATCH])
        keys = jnp.broadcast_to(jax.random.key(seed), len(rows))
        pictures = pipe(rows, guidance=guidance, steps=steps, sampler=sampler, key=keys)
        folder.mkdir(parents=True, exist_ok=True)
        for path, picture in zip(paths[start:], to_pil(pictures), strict=False):
            picture.save(path)
    return paths


def output_paths(sounds: Sequence[str], folder: Path) -> list[Path]:
    """`folder`/<name of the sound>.png each; a name that comes again gets a number."""
    paths: list[Path] = []
    for sound in sounds:
        stem, number = Path(sound).stem, 2
        path = folder / f"{stem}.png"
        while path in paths:
            path, number = folder / f"{stem}-{number}.png", number + 1
        paths.append(path)
    return paths
