"""A sound as a strip and a film: an image of every second that begins so many seconds after the one before."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jaxsd.audio import Sound, sound_seconds
from jaxsd.generation.drawing import Drawing
from jaxsd.generation.files import output_paths, save_file, save_image
from jaxsd.generation.films import FILMS, write_film
from jaxsd.generation.strips import make_strip
from jaxsd.recipes.recipe import Recipe, attach_recipe, recipe_json
from jaxsd.runtime.progress import Progress, counted

STRIP = ".png"
SLIDE_FILES = (STRIP, ".webp")  # that are written where none is named
ALLOWED_SLIDE_FILES = (STRIP, *FILMS)
WIDEST_TILE = 256  # pixels of an image in a strip


@dataclass(frozen=True)
class Slide:
    """Windows of a sound, one each `hop` seconds, with `smooth` images between two of them."""

    sound: Sound
    windows: int
    hop: float
    smooth: int = 0

    def times(self) -> list[float]:
        """When each image begins, and last when the film ends: with the sound, or a second after the last window."""
        starts = [number * self.hop / (self.smooth + 1) for number in range((self.windows - 1) * (self.smooth + 1) + 1)]
        after = sound_seconds(self.sound) - starts[-1]
        return [*starts, starts[-1] + (after if 1 <= after < 1 + self.hop else 1.0)]


def write_slide(drawing: Drawing, slide: Slide, recipe: Recipe, suffixes: Sequence[str]) -> list[Path]:
    """Draw the images of a slide from the same noise, and write a strip of its windows and a film of all.

    Args:
        drawing: an input for each image of the slide, all of one stem, which the files are named after.
        slide: the windows.
        recipe: for the files to say how they were made.
        suffixes: of the files, some of ALLOWED_SLIDE_FILES.

    Returns:
        The paths of the files.

    Raises:
        ValueError: an argument does not fit; then nothing is written.
    """
    stem = drawing.stems[0]
    places = [output_paths([stem], drawing.folder, 1, drawing.overwrite, suffix)[0] for suffix in suffixes]
    times = slide.times()
    print(f"{slide.sound.name}: {counted(len(times) - 1, 'image')} of {times[-1]:.1f} s", file=sys.stderr, flush=True)
    with Progress("denoising", drawing.steps, compiles=True) as progress:
        images = [image for _, image in drawing.draw(progress)]
    recipe = recipe.drawn(images[0], 0, drawing.size)
    paths = []
    for path in places:
        if path.suffix == STRIP:
            shown = [image.copy() for image in images[:: slide.smooth + 1]]
            for image in shown:
                image.thumbnail((WIDEST_TILE, WIDEST_TILE))
            labels = [_time_label(time) for time in times[: -1 : slide.smooth + 1]]
            paths.append(save_image(attach_recipe(make_strip(shown, labels), recipe), path, stem, drawing.overwrite))
        else:
            film = partial(write_film, images=images, times=times, sound=slide.sound, comment=recipe_json(recipe))
            paths.append(save_file(film, path, stem, drawing.overwrite))
    return paths


def _time_label(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{minutes:.0f}:{rest:04.1f}" if seconds >= 60 else f"{rest:.3g} s"
