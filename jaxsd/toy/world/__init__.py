"""Scenes, captions and examples of the toy world, each a pure function of a split, an index and a seed."""

from __future__ import annotations

import multiprocessing
import os
import wave
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxsd.toy.world import drawing as _pictures
from jaxsd.toy.world import sounds as _sounds

THINGS = ("bell", "bird", "bonfire", "cafe", "car", "dog", "guitar", "lion", "organ", "waves")
COLOURS = tuple(_pictures.COLOUR_RGB)
BACKGROUNDS = tuple(_pictures.BACKGROUND_RGB)
SIDES = tuple(_pictures.SIDE_CENTRE)
SPLITS = ("train", "validation", "test", "samples")

SAMPLE_RATE = 16_000
"""Samples per second of every sound."""

_STREAMS = ("scene", "caption", "sound")
_MIRRORED_THINGS = frozenset({"bird", "cafe", "car", "guitar", "waves"})
_SERIAL_LIMIT = 512  # below this many items, starting processes costs more than it saves

# Article, noun and what it does; a colour goes between article and noun.
_WORDING: dict[str, tuple[str, str, str]] = {
    "bell": ("a", "bell", "ringing"),
    "bird": ("a", "bird", "singing"),
    "bonfire": ("a", "bonfire", "crackling"),
    "cafe": ("a", "cup", "in a coffee shop"),
    "car": ("a", "car", "with its engine running"),
    "dog": ("a", "dog", "barking"),
    "guitar": ("a", "guitar", "being played"),
    "lion": ("a", "lion", "roaring"),
    "organ": ("an", "organ", "being played"),
    "waves": ("", "waves", "crashing against rocks"),
}
SIDE_PHRASE: dict[str, str] = {"left": "on the left", "middle": "in the middle", "right": "on the right"}
BACKGROUND_PHRASE: dict[str, str] = {
    "day": "by day",
    "night": "at night",
    "desert": "in the desert",
    "snow": "in the snow",
}

ATTRIBUTES = ("colour", "side", "background")
"""What a caption may name besides the thing."""

_SOME = tuple(frozenset(name for bit, name in enumerate(ATTRIBUTES) if subset >> bit & 1) for subset in range(1, 7))
_TEMPLATES = (
    "{subject} {side} {background}",
    "{subject} {background} {side}",
    "{side} {subject} {background}",
    "{background} {subject} {side}",
    "a picture of {subject} {side} {background}",
)


@dataclass(frozen=True)
class Scene:
    """Everything a picture depends on; lengths are in units of a 64th of the picture's side."""

    thing: str
    colour: str
    background: str
    side: str
    size: float
    dx: float
    dy: float
    horizon: float
    phase: float
    mirrored: bool


class Example(NamedTuple):
    """One sound, picture and caption of the same thing.

    audio: int16 (16000,), one second at 16 kHz. image: uint8 (64, 64, 3).
    """

    audio: np.ndarray
    image: np.ndarray
    caption: str
    scene: Scene


def sample_scene(rng: np.random.Generator, thing: str | None = None) -> Scene:
    """Draw a random scene, of the given thing or of any."""
    any_thing = THINGS[rng.integers(len(THINGS))]
    thing = any_thing if thing is None else thing
    return Scene(
        thing=thing,
        colour=COLOURS[rng.integers(len(COLOURS))],
        background=BACKGROUNDS[rng.integers(len(BACKGROUNDS))],
        side=SIDES[rng.integers(len(SIDES))],
        size=float(rng.uniform(0.8, 1.05)),
        dx=float(rng.uniform(-1.5, 1.5)),
        dy=float(rng.uniform(-2.0, 2.0)),
        horizon=float(rng.uniform(43.0, 48.0)),
        phase=float(rng.random()),
        mirrored=bool(rng.random() < 0.5) and thing in _MIRRORED_THINGS,
    )


def _subject(thing: str, colour: str = "") -> str:
    article, noun, action = _WORDING[thing]
    if colour and article:
        article = "a"
    return " ".join(word for word in (article, colour, noun, action) if word)


def class_caption(thing: str) -> str:
    """The caption that names the thing and none of a scene's attributes."""
    return _subject(thing)


def _named_attributes(rng: np.random.Generator) -> frozenset[str]:
    chance = rng.random()
    some = _SOME[rng.integers(len(_SOME))]
    if chance < 0.60:
        return frozenset(ATTRIBUTES)
    return frozenset() if chance < 0.75 else some


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describe a scene in at most 16 lower-case words, naming the thing and a random subset of its attributes."""
    named = _named_attributes(rng)
    text = _TEMPLATES[rng.integers(len(_TEMPLATES))].format(
        subject=_subject(scene.thing, scene.colour if "colour" in named else ""),
        side=SIDE_PHRASE[scene.side] if "side" in named else "",
        background=BACKGROUND_PHRASE[scene.background] if "background" in named else "",
    )
    return " ".join(text.split())


def named(caption: str, scene: Scene) -> frozenset[str]:
    """Which of the ATTRIBUTES a caption of the scene names."""
    words = {
        "colour": scene.colour,
        "side": SIDE_PHRASE[scene.side],
        "background": BACKGROUND_PHRASE[scene.background],
    }
    return frozenset(attribute for attribute in ATTRIBUTES if words[attribute] in caption)


def _rng(split: str, index: int, seed: int, stream: str) -> np.random.Generator:
    return np.random.default_rng([seed, SPLITS.index(split), index, _STREAMS.index(stream)])


def _thing(index: int) -> str:
    return THINGS[index % len(THINGS)]


def _scene(split: str, index: int, seed: int) -> Scene:
    return sample_scene(_rng(split, index, seed, "scene"), _thing(index))


def _caption(split: str, index: int, seed: int) -> str:
    return caption(_scene(split, index, seed), _rng(split, index, seed, "caption"))


def _sound(index: int, split: str, seed: int) -> np.ndarray:
    return _sounds.synthesise(_thing(index), _rng(split, index, seed, "sound"))


def example(split: str, index: int, seed: int = 0) -> Example:
    """The example at a place in a split; the same arguments give the same example."""
    scene = _scene(split, index, seed)
    return Example(_sound(index, split, seed), _pictures.draw(scene), _caption(split, index, seed), scene)


def scenes(split: str, n: int, seed: int = 0) -> list[Scene]:
    """The first n scenes of a split."""
    return [_scene(split, index, seed) for index in range(n)]


def captions(split: str, n: int, seed: int = 0) -> list[str]:
    """The first n captions of a split."""
    return [_caption(split, index, seed) for index in range(n)]


def _map(function: Callable[[Any], np.ndarray], items: Sequence[Any], workers: int | None) -> list[np.ndarray]:
    """Apply a function in order, in several processes where there is work enough to share."""
    workers = workers or os.cpu_count() or 1
    if workers == 1 or len(items) < _SERIAL_LIMIT:
        return [function(item) for item in items]
    # Spawn, because forking a process whose accelerator runtime holds threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        return list(pool.map(function, items, chunksize=128))


def pictures(scenes: Sequence[Scene], workers: int | None = None) -> np.ndarray:
    """Draw scenes.

    Args:
        scenes: n scenes.
        workers: processes to draw with; None is one per processor core.

    Returns:
        uint8 (n, 64, 64, 3).
    """
    return np.array(_map(_pictures.draw, scenes, workers), np.uint8).reshape(-1, 64, 64, 3)


def sounds(split: str, n: int, seed: int = 0, workers: int | None = None) -> np.ndarray:
    """Synthesise the first n sounds of a split.

    Args:
        split: one of SPLITS.
        n: number of sounds.
        seed: the world's seed.
        workers: processes to synthesise with; None is one per processor core.

    Returns:
        int16 (n, 16000) at 16 kHz.
    """
    clips = _map(partial(_sound, split=split, seed=seed), range(n), workers)
    return np.array(clips, np.int16).reshape(-1, SAMPLE_RATE)


def write_samples(folder: str | Path) -> None:
    """Write one sound of every thing, from the samples split, as `<thing>.wav`: 16 kHz, mono, 16 bits."""
    for index, thing in enumerate(THINGS):
        with wave.open(str(Path(folder) / f"{thing}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            file.writeframes(example("samples", index).audio.astype("<i2").tobytes())
