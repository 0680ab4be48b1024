"""Sounds and prompts to image files: what is read, how images are batched, what the files are called."""

import itertools
import os
import re
from collections import defaultdict
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
from jaxsd.recipe import Recipe, attach_recipe, read_attached, save_png
from jaxsd.sharding import padded_batches
from jaxsd.sound_to_image import Conditioning, LoadedSound, image_keys, load_sounds
from jaxsd.strips import make_strip
from jaxsd.sweeps import Sweep

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
    paths = output_paths(stems, folder, count, overwrite)
    images = _Images(pipe, conditioning, recipes, len(stems), count, first, batch, seed, **sampling)
    with Progress("denoising", images.steps(), compiles=True) as progress:
        for index, image in images.draw(progress):
            folder.mkdir(parents=True, exist_ok=True)
            paths[index] = _save(image, paths[index], stems[index // count], overwrite)
    return paths


def write_sweep(
    pipe: StableDiffusion,
    sweep: Sweep,
    conditionings: Sequence[Conditioning],
    stems: Sequence[str],
    folder: Path,
    *,
    recipes: Sequence[Recipe],
    count: int = 1,
    first: int = 0,
    batch: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    **sampling: Any,
) -> list[Path]:
    """Draw each image with each value of a sweep, from the same noise, and write a strip of them for each input.

    All values run the same programs, but for a guidance of 1, which computes half as much.

    Args:
        sweep: the argument and its values.
        conditionings: those of each value, as `write_images` takes one.
        stems, folder, recipes, count, first, batch, seed, overwrite, sampling: those of `write_images`.

    Returns:
        The paths of the strips, in the order of the stems; a line of a strip is an image of an input.

    Raises:
        ValueError: an argument does not fit; then nothing is written.
    """
    swept = [{} if sweep.name == "alpha" else {sweep.name: value} for value in sweep.values]
    names = [f"{stem}-{sweep.name}" for stem in stems]
    paths = output_paths(names, folder, 1, overwrite)
    drawings = [
        _Images(pipe, conditioning, recipes, len(stems), count, first, batch, seed, **{**sampling, **value})
        for conditioning, value in zip(conditionings, swept, strict=True)
    ]
    tiles: dict[int, list[Image.Image]] = defaultdict(list)
    done = 0
    with Progress("denoising", sum(drawing.steps() for drawing in drawings), compiles=True) as progress:
        for drawing in drawings:
            for index, image in drawing.draw(progress, done):
                tiles[index].append(image)
            done += drawing.steps()
    folder.mkdir(parents=True, exist_ok=True)
    for of, path in enumerate(paths):
        images = [image for index in range(of * count, (of + 1) * count) for image in tiles[index]]
        strip = make_strip(images, sweep.labels() * count, len(sweep.values))
        attach_recipe(strip, read_attached(images[0]))
        paths[of] = _save(strip, path, names[of], overwrite)
    return paths


class _Images:
    """Images to draw: `count` of each of `inputs` inputs. The arguments are those of `write_images`."""

    def __init__(
        self,
        pipe: StableDiffusion,
        conditioning: Conditioning,
        recipes: Sequence[Recipe],
        inputs: int,
        count: int,
        first: int,
        batch: int | None,
        seed: int,
        **sampling: Any,
    ):
        if count < 1:
            raise ValueError(f"count is {count}; allowed: 1 or more")
        self.pipe, self.conditioning, self.recipes, self.sampling = pipe, conditioning, recipes, sampling
        total = inputs * count
        self.input_of, numbers = np.divmod(np.arange(total), count)
        self.conditioning_of = np.arange(total) if len(conditioning.cond) == total else self.input_of
        self.numbers = numbers + first
        size = batch_size(pipe, sampling.get("height"), sampling.get("width"))
        self.size = min(total if batch is None else batch if batch == 1 else batch * jax.local_device_count(), size)
        self.batches = list(padded_batches(total, self.size))
        table = pipe.sampler_table(sampling.get("steps"), sampling.get("sampler"), _starting_strength(**sampling))
        self.steps_of_batch = len(table.rows())
        self.keys = image_keys(seed, self.numbers.tolist())

    def steps(self) -> int:
        return len(self.batches) * self.steps_of_batch

    def draw(self, progress: Progress, done: int = 0) -> Iterator[tuple[int, Image.Image]]:
        """Each image after its index, with its recipe; `done` is how many steps the progress counts already."""
        for number, (indices, wanted) in enumerate(self.batches):
            before = done + number * self.steps_of_batch
            images = self.pipe(
                self.conditioning.cond[self.conditioning_of[indices]],
                _uncond_of(self.conditioning, self.conditioning_of[indices]),
                key=self.keys[indices],
                on_step=progress.follow(before),
                **self.sampling,
            )
            drawn = to_pil(np.asarray(images))[:wanted]
            progress.advance(before + self.steps_of_batch)
            for index, image in zip(indices[:wanted].tolist(), drawn, strict=True):
                if self.recipes:
                    recipe = self.recipes[int(self.input_of[index])]
                    attach_recipe(image, recipe.drawn(image, int(self.numbers[index]), self.size))
                yield index, image


def _save(image: Image.Image, path: Path, stem: str, overwrite: bool) -> Path:
    """Write an image and return its path, which is another one where another process has taken `path` meanwhile."""
    if not overwrite:
        return _save_new(image, path.parent, stem)
    with replacing(path) as part:
        save_png(image, part)
    return path


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
