"""What image files are called, and how they are written: whole or not at all, and never over another by accident."""

import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from jaxsd.recipes.recipe import save_png
from jaxsd.runtime.files import check_output_folder, naming, place_new, replacing


def slug(text: str) -> str:
    """A text as a file's name."""
    return re.sub(r"\W+", "-", text.lower()).strip("-")[:60] or "image"


def output_paths(stems: Sequence[str], folder: Path, count: int, overwrite: bool, suffix: str = ".png") -> list[Path]:
    """`folder`/<stem>.png, `count` of each stem; a name that is taken gets the next free number.

    Raises ValueError as `check_output_folder` does.
    """
    check_output_folder(folder)
    paths: list[Path] = []
    for stem in (stem for stem in stems for _ in range(count)):
        candidates = _candidates(folder / f"{stem}{suffix}")
        paths.append(next(path for path in candidates if path not in paths and (overwrite or not path.exists())))
    return paths


def save_image(image: Image.Image, path: Path, stem: str, overwrite: bool) -> Path:
    """Write a PNG file by the rules of `save_file`."""
    return save_file(partial(save_png, image), path, stem, overwrite)


def save_file(write: Callable[[Path], object], path: Path, stem: str, overwrite: bool) -> Path:
    """Write a file, whole or not at all, and return its path.

    That is another one, named after `stem`, where another process has taken `path` meanwhile.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not overwrite:
        return _save_new(write, path.with_name(f"{stem}{path.suffix}"))
    with replacing(path) as part:
        write(part)
    return path


def _save_new(write: Callable[[Path], object], path: Path) -> Path:
    """Write a file of the first free name. Other processes may write to the folder too."""
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        with naming(path, part):
            write(part)
        return next(free for free in _candidates(path) if place_new(part, free))
    finally:
        part.unlink(missing_ok=True)


def _candidates(path: Path) -> Iterator[Path]:
    """The paths that a file may get, the next where one is taken."""
    yield path
    yield from (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))
