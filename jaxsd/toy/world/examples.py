"""Examples of the toy world, each a pure function of a split, an index and a seed.

Worker processes import this file, so nothing here imports JAX.
"""

import csv
import errno
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int16, UInt8
from PIL import Image

from jaxsd.audio import write_wav
from jaxsd.data.workers import Examples, Workers
from jaxsd.runtime.files import naming
from jaxsd.runtime.progress import Progress, counted
from jaxsd.toy.world.drawing import draw
from jaxsd.toy.world.scene import CLASSES, Scene, sample_scene
from jaxsd.toy.world.synthesis import SAMPLE_RATE, synthesize
from jaxsd.toy.world.wording import class_caption, describe

WORLD_SPLITS = ("train", "validation", "test", "samples")
"""The splits of a data set, and that of the sounds that ship with the package."""

_STREAMS = ("scene", "caption", "sound")
_SERIAL_LIMIT = 512  # below this many examples, starting processes costs more than it saves
_BLOCK = 128  # examples that a process makes at once


class Example(NamedTuple):
    """A sound, an image and a caption of one class, and the scene that image and caption are of.

    audio: int16 (16000,), one second at 16 kHz. image: uint8 (64, 64, 3).
    """

    audio: Int16[np.ndarray, " samples"]
    image: UInt8[np.ndarray, "height width 3"]
    caption: str
    scene: Scene


def example(split: str, index: int, seed: int = 0) -> Example:
    """The example of that index in a split. The same arguments give the same example."""
    scene = _scene(split, index, seed)
    return Example(_sound(index, split, seed), draw(scene), _caption(split, index, seed), scene)


def scenes(split: str, n: int, seed: int = 0) -> list[Scene]:
    """The first n scenes of a split."""
    return [_scene(split, index, seed) for index in range(n)]


def captions(split: str, n: int, seed: int = 0) -> list[str]:
    """The first n captions of a split."""
    return [_caption(split, index, seed) for index in range(n)]


def images(scenes: Sequence[Scene], workers: int | None = None) -> UInt8[np.ndarray, "n 64 64 3"]:
    """Draw n scenes, in `workers` processes (None: one a processor core)."""
    return np.array(_map(draw, scenes, workers), np.uint8).reshape(-1, 64, 64, 3)


def sounds(split: str, n: int, seed: int = 0, workers: int | None = None) -> Int16[np.ndarray, "{n} samples"]:
    """Synthesize the first n sounds of a split.

    Args:
        split: one of WORLD_SPLITS.
        n: number of sounds.
        seed: the world's seed.
        workers: processes to synthesize with; None is one a processor core.

    Returns:
        int16 (n, 16000) at 16 kHz.
    """
    clips = _map(partial(_sound, split=split, seed=seed), range(n), workers)
    return np.array(clips, np.int16).reshape(-1, SAMPLE_RATE)


def make_examples(items: Sequence[tuple[str, int]], seed: int) -> Examples:
    """The examples of these (split, index), as a data set takes them."""
    made = [example(split, index, seed) for split, index in items]
    pixels = np.stack([one.image for one in made])
    return Examples(
        columns={
            "audio": np.stack([one.audio for one in made]),
            "class": np.array([CLASSES.index(one.scene.class_name) for one in made], np.int32),
        },
        captions=[one.caption for one in made],
        images=pixels,
        vae_images=pixels,
        bad={},
    )


def write_samples(folder: str | Path) -> None:
    """Write one sound of every class, from the split "samples", as `<class>.wav`: 16 kHz, mono, 16 bits."""
    for index, class_name in enumerate(CLASSES):
        write_wav(Path(folder) / f"{class_name}.wav", example("samples", index).audio)


def write_files(folder: str | Path, size: int) -> None:
    """Write examples of the split "train" as somebody's own files: `0000.wav`, `0000.png`, ..., and captions.csv.

    captions.csv has the columns name and caption. The folder is whole or not there. Raises ValueError where `folder` is
    there and not empty, or where `size` is below 1.
    """
    if size < 1:
        raise ValueError(f"{folder}: {counted(size, 'example')}; allowed: 1 or more")
    _write_new_folder(Path(folder), partial(_write_examples, size=size))


def write_study_files(folder: str | Path, size: int) -> None:
    """Write the inputs of a study as `generate.py --study` reads them.

    These are the sample sounds, one of every class, captions that name the class alone, and `size` images to start
    from, of the split "validation". The folder is whole or not there. Raises ValueError where `folder` is there and not
    empty, or where `size` is below 0.
    """
    if size < 0:
        raise ValueError(f"{folder}: {counted(size, 'image')}; allowed: 0 or more")
    _write_new_folder(Path(folder), partial(_write_study, size=size))


def _write_new_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder that is new, or empty; the folder is whole or not there."""
    there = ValueError(f"{folder} is there already; choose another folder")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise there
    part = folder.resolve().with_name(f"{folder.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    try:
        write(part)
        try:
            part.rename(folder)
        except OSError as error:
            raise (there if error.errno in (errno.ENOTEMPTY, errno.EEXIST) else error) from None  # made meanwhile
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_examples(folder: Path, size: int) -> None:
    lines = [("name", "caption")]
    with Progress("files", size, unit="example") as progress:
        for index in range(size):
            one, name = example("train", index), f"{index:04}"
            write_wav(folder / f"{name}.wav", one.audio)
            with naming(folder / f"{name}.png"):
                Image.fromarray(one.image).save(folder / f"{name}.png")
            lines.append((name, one.caption))
            progress.advance(index + 1)
    _write_captions(folder, lines)


def _write_study(folder: Path, size: int) -> None:
    for name in ("sounds", "images"):
        (folder / name).mkdir()
    write_samples(folder / "sounds")
    _write_captions(folder, [("name", "caption", "class"), *((name, class_caption(name), name) for name in CLASSES)])
    for index, scene in enumerate(scenes("validation", size)):
        path = folder / "images" / f"{scene.color}-{scene.class_name}-{scene.background}-{index}.png"
        with naming(path):
            Image.fromarray(draw(scene)).save(path)


def _write_captions(folder: Path, lines: Sequence[Sequence[str]]) -> None:
    with naming(folder / "captions.csv"), (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)


def _rng(split: str, index: int, seed: int, stream: str) -> np.random.Generator:
    return np.random.default_rng([seed, WORLD_SPLITS.index(split), index, _STREAMS.index(stream)])


def _class_name(index: int) -> str:
    return CLASSES[index % len(CLASSES)]


def _scene(split: str, index: int, seed: int) -> Scene:
    return sample_scene(_rng(split, index, seed, "scene"), _class_name(index))


def _caption(split: str, index: int, seed: int) -> str:
    return describe(_scene(split, index, seed), _rng(split, index, seed, "caption"))


def _sound(index: int, split: str, seed: int) -> Int16[np.ndarray, " samples"]:
    return synthesize(_class_name(index), _rng(split, index, seed, "sound"))


def _map(function: Callable, inputs: Sequence, workers: int | None) -> list[np.ndarray]:
    """Apply a function in order, in several processes where there is work enough to share."""
    workers = workers or os.cpu_count() or 1
    if workers == 1 or len(inputs) < _SERIAL_LIMIT:
        return [function(one) for one in inputs]
    blocks = [inputs[first : first + _BLOCK] for first in range(0, len(inputs), _BLOCK)]
    with Workers(partial(_apply, function), None, workers, 0) as pool:
        return [made for block in pool.map(blocks) for made in block]


def _apply(function: Callable, inputs: Sequence) -> list[np.ndarray]:
    return [function(one) for one in inputs]
