"""Scenes: all that an image of the toy world depends on, and what captions are about."""

from dataclasses import dataclass

import numpy as np

from jaxsd.toy.world.palette import BACKGROUND_RGB, COLOR_RGB, SIDE_CENTER

CLASSES = ("bell", "bird", "bonfire", "cafe", "car", "dog", "guitar", "lion", "organ", "waves")
COLORS = tuple(COLOR_RGB)
BACKGROUNDS = tuple(BACKGROUND_RGB)
SIDES = tuple(SIDE_CENTER)

_MIRRORED_CLASSES = frozenset({"bird", "cafe", "car", "guitar", "waves"})


@dataclass(frozen=True)
class Scene:
    """All that an image depends on. Lengths are in 64ths of the image's side."""

    class_name: str
    color: str
    background: str
    side: str
    size: float
    dx: float
    dy: float
    horizon: float
    phase: float
    mirrored: bool


def sample_scene(rng: np.random.Generator, class_name: str | None = None) -> Scene:
    """Draw a random scene of the given class, or of a random class."""
    random_class = CLASSES[rng.integers(len(CLASSES))]  # drawn always, so that the numbers after it are the same
    class_name = random_class if class_name is None else class_name
    return Scene(
        class_name=class_name,
        color=COLORS[rng.integers(len(COLORS))],
        background=BACKGROUNDS[rng.integers(len(BACKGROUNDS))],
        side=SIDES[rng.integers(len(SIDES))],
        size=float(rng.uniform(0.8, 1.05)),
        dx=float(rng.uniform(-1.5, 1.5)),
        dy=float(rng.uniform(-2.0, 2.0)),
        horizon=float(rng.uniform(43.0, 48.0)),
        phase=float(rng.random()),
        mirrored=bool(rng.random() < 0.5) and class_name in _MIRRORED_CLASSES,
    )
