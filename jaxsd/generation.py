"""Sounds and prompts to image files: what is read, how images are batched, what the files are called."""

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int16
from PIL import Image

from jaxsd.bundled import sound_source
from jaxsd.clip.images import load_image
from jaxsd.diffusion.pipeline import StableDiffusion, strength_of, to_pil
from jaxsd.files import naming, place_new, replacing
from jaxsd.progress import Progress
from jaxsd.recipe import Recipe, attach_recipe, save_png
from jaxsd.sharding import padded_batches
from jaxsd.sound_to_image import Conditioning, LoadedSound, image_keys, load_sounds

MOST_IMAGES, MOST_LATENTS = 16, 4 * 64 * 64  # at a time on one device


@dataclass(frozen=True)
class Inputs:
    """What images are made of, read from files before any model is loaded.

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
    loaded = load_sounds(paths) if paths else []
    return Inputs(
        sounds=loaded,
        prompts=prompts,
        stems=_stems(paths, prompts, mix),
        image=None if image is None else load_image(image),
    )


def write_images(
    pipe: StableDiffusion,
    conditioning: Conditioning,
    stems: Sequence[str],
    folder: Path,
    *,
    recipes: Sequence[Recipe] = (),
    count: int = 1,
    first: int = 0,
    batch: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    **sampling: Any,
) -> list[Path]:
    """Draw `count` images for each conditioning and write them as PNG files.

    An image is a function of its conditioning, the seed and its number among `count`, whatever is drawn beside it.

    Args:
        pipe: the Stable Diffusion.
        conditioning: that of each sound or prompt, as `SoundToImage.encode` gives it, or one of each image.
        stems: what the files of each are named after.
        folder: where the files go; it is made when the first image is drawn.
        recipes: that of each sound or prompt, for the files to say how they were made.
        count: images of each.
        first: the number of the first image of each.
        batch: images that each device draws at once; fewer are filled up. By default as many as there are, up to what
            a device takes.
        seed: seeds the noise.
        overwrite: whether files that are there are replaced; otherwise a new file gets the next free number.
        sampling: keyword arguments of `StableDiffusion.__call__`: guidance, guidance_end, steps, sampler, image,
            mask, strength, height, width.

    Returns:
        The paths of the files, in the order of the stems.

    Raises:
        ValueError: an argument does not fit; then nothing is written.
    """
    if count < 1:
        raise ValueError(f"count is {count}; allowed: 1 or more")
    paths = output_paths(stems, folder, count, overwrite)
    indices_of, numbers = np.divmod(np.arange(len(paths)), count)
    if len(conditioning.cond) == len(paths):
        indices_of = np.arange(len(paths))
    numbers = numbers + first
    keys = image_keys(seed, numbers.tolist())
    size = batch_size(pipe, sampling.get("height"), sampling.get("width"))
    size = min(len(paths) if batch is None else batch if batch == 1 else batch * jax.local_device_count(), size)
    batches = list(padded_batches(len(paths), size))
    table = pipe.sampler_table(sampling.get("steps"), sampling.get("sampler"), _starting_strength(**sampling))
    with Progress("denoising", len(batches) * len(table.rows()), compiles=True) as progress:
        for number, (indices, wanted) in enumerate(batches):
            images = pipe(
                conditioning.cond[indices_of[indices]],
                _uncond_of(conditioning, indices_of[indices]),
                key=keys[indices],
                on_step=lambda done, total, _, before=number: progress.advance(before * total + done),
                **sampling,
            )
            folder.mkdir(parents=True, exist_ok=True)
            for index, image in zip(indices[:wanted], to_pil(np.asarray(images))[:wanted], strict=True):
                of = int(index) // count
                if recipes:
                    attach_recipe(image, recipes[of].drawn(image, int(numbers[index]), size))
                if overwrite:
                    with replacing(paths[index]) as part:
                        save_png(image, part)
                else:
                    paths[index] = _save_new(image, folder, stems[of])
    return paths


def batch_size(pipe: StableDiffusion, height: int | None, width: int | None) -> int:
    """Images at a time over all devices: fewer of large ones."""
    default = pipe.unet.config.sample_size * pipe.vae.config.factor
    latents = (height or default) * (width or default) // pipe.vae.config.factor**2
    return max(1, min(MOST_IMAGES, MOST_LATENTS // max(latents, 1))) * jax.local_device_count()


def _stems(paths: Sequence[Path], prompts: Sequence[str], mix: bool) -> list[str]:
    stems = [path.stem for path in paths]
    if mix and stems:
        return ["+".join(stems)[:100]]
    return stems or [slug(prompt) for prompt in prompts]


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
        candidates = _candidates(folder, stem)
        paths.append(next(path for path in candidates if path not in paths and (overwrite or not path.exists())))
    return paths


def _save_new(image: Image.Image, folder: Path, stem: str) -> Path:
    """Write a PNG file of the first free name, whole or not at all. Other processes may write to the folder too."""
    part = folder / f".{stem}.{os.getpid()}.part.png"
    try:
        with naming(folder / f"{stem}.png"):
            save_png(image, part)
        return next(path for path in _candidates(folder, stem) if place_new(part, path))
    finally:
        part.unlink(missing_ok=True)


def _candidates(folder: Path, stem: str) -> Iterator[Path]:
    """The paths that a file may get, the next where one is taken."""
    yield folder / f"{stem}.png"
    yield from (folder / f"{stem}-{number}.png" for number in itertools.count(2))


def _starting_strength(image=None, mask=None, strength: float | None = None, **_) -> float | None:
    return strength_of(image, mask, strength)


def _uncond_of(conditioning: Conditioning, indices: np.ndarray) -> jax.Array | None:
    """What guidance moves away from in the images of these conditionings: one for all, or that of each."""
    uncond = conditioning.uncond
    return uncond if uncond is None or len(uncond) == 1 else uncond[indices]
