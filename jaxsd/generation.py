"""Sounds and prompts to image files: what is read, how images are batched, what the files are called."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxsd.batching import padded_batches
from jaxsd.bundled import sound_source
from jaxsd.diffusion.images import load_image
from jaxsd.diffusion.pipeline import StableDiffusion, to_pil
from jaxsd.diffusion.samplers import make_sampler
from jaxsd.progress import Progress
from jaxsd.sound_to_image import SoundToImage, load_clips

MOST_IMAGES, MOST_LATENTS = 16, 4 * 64 * 64  # at a time on one device


@dataclass(frozen=True)
class Inputs:
    """What images are made of, read from files before any model is loaded.

    clips: int16 (sounds, 16000), or None. prompts: one for all sounds, one each, or without sounds. stems: what the
    files are named after. image: the image to start from, or None.
    """

    clips: np.ndarray | None
    prompts: Sequence[str]
    stems: Sequence[str]
    image: Image.Image | None


def read_inputs(sounds: Sequence[str], prompts: Sequence[str], image: str | None) -> Inputs:
    """Read the files. Raises ValueError or FileNotFoundError that names the file or the argument that does not fit."""
    if not sounds and not prompts:
        raise ValueError("there is neither a sound nor a text to make an image of; give --audio, --text or both")
    if sounds and len(prompts) not in (0, 1, len(sounds)):
        raise ValueError(f"texts are {len(prompts)} and sounds are {len(sounds)}; allowed: as many, or one for all")
    paths = [sound_source(sound) for sound in sounds]
    return Inputs(
        clips=load_clips(paths) if paths else None,
        prompts=prompts,
        stems=[path.stem for path in paths] or [slug(prompt) for prompt in prompts],
        image=None if image is None else load_image(image),
    )


def write_images(
    model: SoundToImage,
    inputs: Inputs,
    folder: Path,
    *,
    negative: str = "",
    unconditional: str = "text",
    guidance: float | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    strength: float = 0.7,
    height: int | None = None,
    width: int | None = None,
    count: int = 1,
    seed: int = 0,
    overwrite: bool = False,
) -> list[Path]:
    """Write `count` PNG files for each sound, or each prompt where there are no sounds.

    An image is a function of its sound, its prompt, the seed and its number among `count`, whatever else is asked for
    beside it.

    Args:
        model: the encoders and the Stable Diffusion.
        inputs: sounds, prompts and the image to start from.
        folder: where the files go; it is made when the first image is drawn.
        negative: the prompt that guidance moves away from.
        unconditional: "text" or "silence", as in `SoundToImage.encode`.
        guidance: weight of the conditioning (the model's own suggestion).
        steps: denoising steps (the model's own suggestion).
        sampler: name of the sampler (the model's own).
        strength: how little is left of the image to start from, above 0 to 1.
        height: of the images in pixels (what the U-Net was trained at).
        width: of the images in pixels (what the U-Net was trained at).
        count: images of each sound.
        seed: seeds the noise.
        overwrite: whether files that are there are replaced; otherwise a new file gets the next free number.

    Returns:
        The paths of the files, in the order of the sounds.

    Raises:
        ValueError: an argument does not fit; then nothing is written.
    """
    if count < 1:
        raise ValueError(f"count is {count}; allowed: 1 or more")
    pipe = model.pipe
    guidance = pipe.sampling.guidance if guidance is None else guidance
    steps = pipe.sampling.steps if steps is None else steps
    sampler = sampler or pipe.sampling.sampler or pipe.schedule.sampler
    rows = make_sampler(sampler, pipe.schedule, steps, None if inputs.image is None else strength).rows()
    batch = batch_size(pipe, height, width)
    conditioning = model.encode(
        inputs.clips,
        inputs.prompts,
        negative=negative,
        unconditional=None if guidance == 1 else unconditional,
    )
    paths = output_paths(inputs.stems, folder, count, overwrite)
    sounds, numbers = np.divmod(np.arange(len(paths)), count)
    keys = _image_keys(seed, numbers)
    batches = list(padded_batches(len(paths), min(len(paths), batch)))
    with Progress("denoising", len(batches) * len(rows)) as progress:
        for number, (indices, wanted) in enumerate(batches):
            images = pipe(
                conditioning.cond[sounds[indices]],
                conditioning.uncond,
                guidance=guidance,
                steps=steps,
                sampler=sampler,
                image=inputs.image,
                strength=strength,
                height=height,
                width=width,
                key=keys[indices],
                on_step=lambda done, total, _, before=number: progress.advance(before * total + done),
            )
            folder.mkdir(parents=True, exist_ok=True)
            for index, image in zip(indices[:wanted], to_pil(images)[:wanted], strict=True):
                image.save(paths[index])
    return paths


def batch_size(pipe: StableDiffusion, height: int | None, width: int | None) -> int:
    """Images at a time over all devices: fewer of large ones."""
    default = pipe.unet.config.sample_size * pipe.vae.config.factor
    latents = (height or default) * (width or default) // pipe.vae.config.factor**2
    return max(1, min(MOST_IMAGES, MOST_LATENTS // max(latents, 1))) * jax.local_device_count()


def slug(text: str) -> str:
    """A text as a file's name."""
    return re.sub(r"\W+", "-", text.lower()).strip("-")[:60] or "image"


def output_paths(stems: Sequence[str], folder: Path, count: int, overwrite: bool) -> list[Path]:
    """`folder`/<stem>.png, `count` of each stem; a name that is taken gets the next free number.

    Raises ValueError where `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; --out is a folder")
    paths: list[Path] = []
    for stem in (stem for stem in stems for _ in range(count)):
        path, number = folder / f"{stem}.png", 2
        while path in paths or (path.exists() and not overwrite):
            path, number = folder / f"{stem}-{number}.png", number + 1
        paths.append(path)
    return paths


def _image_keys(seed: int, numbers: np.ndarray) -> jax.Array:
    """A key for each image, of the seed and of its number among those of one sound; number 0 has the seed's own."""
    key = jax.random.key(seed)
    return jnp.stack([jax.random.fold_in(key, number) if number else key for number in numbers])
