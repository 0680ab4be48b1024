"""Images to draw, in batches, and the files that they become."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int
from PIL import Image

from jaxsd.diffusion.pipeline import StableDiffusion, strength_of, to_pil
from jaxsd.generation.files import output_paths, save_image
from jaxsd.generation.strips import make_strip
from jaxsd.generation.sweeps import Sweep
from jaxsd.recipes.recipe import Recipe, attach_recipe, read_attached
from jaxsd.runtime.progress import Progress
from jaxsd.runtime.sharding import examples_at_once, local_mesh, padded_batches
from jaxsd.sound_to_image import Conditioning, image_keys

MOST_IMAGES, MOST_LATENTS = 16, 4 * 64 * 64  # at a time on one device


@dataclass(frozen=True, eq=False)
class Drawing:
    """Images to draw: `count` of each input, a sound or a prompt.

    An image is a function of its conditioning, the seed and its number among `count`, whatever is drawn beside it: in
    every bit on a CPU, and elsewhere among drawings of one `batch`.

    Attributes:
        pipe: The Stable Diffusion.
        conditioning: That of each input, as `SoundToImage.encode` gives it, or one of each image.
        stems: What the files of each input are named after.
        folder: Where the files go; it is made when the first image is drawn.
        recipes: That of each input, for the files to say how they were made.
        count: Images of each input.
        first: The number of the first image of each.
        batch: Images that each device draws at once; fewer are filled up. By default one on a CPU, elsewhere as many as
            there are, up to what a device takes.
        seed: Seeds the noise.
        overwrite: Whether files that are there are replaced; otherwise a new file gets the next free number.
        sampling: Keyword arguments of `StableDiffusion.__call__`: guidance, steps, sampler, image, mask, height and
            others.

    Raises:
        ValueError: An argument does not fit; then nothing is drawn.
    """

    pipe: StableDiffusion
    conditioning: Conditioning
    stems: Sequence[str]
    folder: Path
    recipes: Sequence[Recipe] = ()
    count: int = 1
    first: int = 0
    batch: int | None = None
    seed: int = 0
    overwrite: bool = False
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if self.count < 1:
            raise ValueError(f"count is {self.count}; allowed: 1 or more")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch is {self.batch}; allowed: 1 or more")

    @property
    def total(self) -> int:
        return len(self.stems) * self.count

    @cached_property
    def batches(self) -> list[tuple[Int[np.ndarray, " size"], int]]:
        """The indices of the images of each batch, and how many of these count."""
        return list(padded_batches(self.total, self.size))

    @property
    def size(self) -> int:
        """Images of a batch, over all devices."""
        largest = batch_size(self.pipe, self.sampling.get("height"), self.sampling.get("width"))
        if self.batch is not None:
            return min(self.batch if self.batch == 1 else self.batch * jax.local_device_count(), largest)
        return examples_at_once(local_mesh(self.total), min(self.total, largest))

    @cached_property
    def steps_of_batch(self) -> int:
        steps, sampler = self.sampling.get("steps"), self.sampling.get("sampler")
        return len(self.pipe.sampler_table(steps, sampler, _starting_strength(**self.sampling)).rows())

    @property
    def steps(self) -> int:
        """Steps of the sampler, over all batches."""
        return len(self.batches) * self.steps_of_batch

    def draw(self, progress: Progress, done: int = 0) -> Iterator[tuple[int, Image.Image]]:
        """Each image after its index, with its recipe; `done` is how many steps the progress counts already."""
        inputs, numbers = np.divmod(np.arange(self.total), self.count)
        numbers = numbers + self.first
        conditionings = np.arange(self.total) if len(self.conditioning.cond) == self.total else inputs
        keys = image_keys(self.seed, numbers.tolist())
        for number, (indices, wanted) in enumerate(self.batches):
            before = done + number * self.steps_of_batch
            images = self.pipe(
                self.conditioning.cond[conditionings[indices]],
                _uncond_of(self.conditioning, conditionings[indices]),
                key=keys[indices],
                on_step=progress.follow(before),
                **self.sampling,
            )
            drawn = to_pil(np.asarray(images))[:wanted]
            progress.advance(before + self.steps_of_batch)
            for index, image in zip(indices[:wanted].tolist(), drawn, strict=True):
                if self.recipes:
                    recipe = self.recipes[int(inputs[index])]
                    attach_recipe(image, recipe.drawn(image, int(numbers[index]), self.size))
                yield index, image


def write_images(drawing: Drawing) -> list[Path]:
    """Draw images and write them as PNG files; the paths are in the order of the stems.

    Raises ValueError where an argument does not fit; then nothing is written.
    """
    paths = output_paths(drawing.stems, drawing.folder, drawing.count, drawing.overwrite)
    with Progress("denoising", drawing.steps, compiles=True) as progress:
        for index, image in drawing.draw(progress):
            paths[index] = save_image(image, paths[index], drawing.stems[index // drawing.count], drawing.overwrite)
    return paths


def write_sweep(drawing: Drawing, sweep: Sweep, conditionings: Sequence[Conditioning]) -> list[Path]:
    """Draw each image with each value of a sweep, from the same noise, and write a strip of them for each input.

    All values run the same programs, but for a guidance of 1, which computes half as much.

    Args:
        drawing: the images, whatever its conditioning.
        sweep: the argument and its values.
        conditionings: those of each value, as `Drawing` takes one.

    Returns:
        The paths of the strips, in the order of the stems; a line of a strip is an image of an input.

    Raises:
        ValueError: an argument does not fit; then nothing is written.
    """
    count, stems = drawing.count, [f"{stem}-{sweep.name}" for stem in drawing.stems]
    paths = output_paths(stems, drawing.folder, 1, drawing.overwrite)
    swept = [{} if sweep.name == "alpha" else {sweep.name: value} for value in sweep.values]
    drawings = [
        replace(drawing, conditioning=conditioning, sampling={**drawing.sampling, **value})
        for conditioning, value in zip(conditionings, swept, strict=True)
    ]
    tiles: dict[int, list[Image.Image]] = defaultdict(list)
    done = 0
    with Progress("denoising", sum(one.steps for one in drawings), compiles=True) as progress:
        for one in drawings:
            for index, image in one.draw(progress, done):
                tiles[index].append(image)
            done += one.steps
    for number, path in enumerate(paths):
        images = [image for index in range(number * count, (number + 1) * count) for image in tiles[index]]
        strip = make_strip(images, sweep.labels() * count, len(sweep.values))
        attach_recipe(strip, read_attached(images[0]))
        paths[number] = save_image(strip, path, stems[number], drawing.overwrite)
    return paths


def batch_size(pipe: StableDiffusion, height: int | None, width: int | None) -> int:
    """The most images at a time over all devices: fewer of large ones."""
    default = pipe.unet.config.sample_size * pipe.vae.config.factor
    latents = (height or default) * (width or default) // pipe.vae.config.factor**2
    return max(1, min(MOST_IMAGES, MOST_LATENTS // max(latents, 1))) * jax.local_device_count()


def _starting_strength(image=None, mask=None, strength: float | None = None, **_) -> float | None:
    return strength_of(image, mask, strength)


def _uncond_of(conditioning: Conditioning, indices: np.ndarray) -> jax.Array | None:
    """What guidance moves away from in the images of these conditionings: one for all, or that of each."""
    uncond = conditioning.uncond
    return uncond if uncond is None or len(uncond) == 1 else uncond[indices]
