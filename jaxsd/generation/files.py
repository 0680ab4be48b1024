"""What image files are called, and how they are written: whole or not at all, and never over another by accident."""

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from jaxsd.recipes.recipe import save_png
from jaxsd.runtime.files import check_output_folder, naming, place_new, replacing


def slug(text: str) -> str:
    """A text as a file's name."""
    return re.sub(r"\W+", "-", text.lower()).strip("-")[:60] or "image"


def output_paths(stems: Sequence[str], folder: Path, count: int, overwrite: bool) -> list[Path]:
    """`folder`/<stem>.png, `count` of each stem; a name that is taken gets the next free number.

    Raises ValueError as `check_output_folder` does.
    """
    check_output_folder(folder)
    paths: list[Path] = []
    for stem in (stem for stem in stems for _ in range(count)):
        candidates = _candidates(folder, stem)
        paths.append(next(path for path in candidates if path not in paths and (overwrite or not path.exists())))
    return paths


def save_image(image: Image.Image, path: Path, stem: str, overwrite: bool) -> Path:
    """Write an image and return its path, which is another one where another process has taken `path` meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not overwrite:
        return _save_new(image, path.parent, stem)
    with replacing(path) as part:
        save_png(image, part)
    return path


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
