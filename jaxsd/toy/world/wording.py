"""Captions of scenes, and what they name."""

import numpy as np

from jaxsd.toy.world.scene import Scene

ATTRIBUTES = ("color", "side", "background")
"""What a caption may name besides the class."""

SIDE_PHRASE = {"left": "on the left", "middle": "in the middle", "right": "on the right"}
BACKGROUND_PHRASE = {"day": "by day", "night": "at night", "desert": "in the desert", "snow": "in the snow"}

# Article, noun, and what the noun does. A color goes between article and noun.
_WORDING = {
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
_TEMPLATES = (
    "{subject} {side} {background}",
    "{subject} {background} {side}",
    "{side} {subject} {background}",
    "{background} {subject} {side}",
    "a picture of {subject} {side} {background}",
)
# The subsets of ATTRIBUTES that are neither empty nor all of them.
_SOME = tuple(frozenset(name for bit, name in enumerate(ATTRIBUTES) if subset >> bit & 1) for subset in range(1, 7))


def class_caption(class_name: str) -> str:
    """The caption that names a class and no attribute of a scene."""
    return _subject(class_name)


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """A caption of at most 16 lower-case words that names the class and a random subset of the attributes."""
    named = _random_attributes(rng)
    text = _TEMPLATES[rng.integers(len(_TEMPLATES))].format(
        subject=_subject(scene.class_name, scene.color if "color" in named else ""),
        side=SIDE_PHRASE[scene.side] if "side" in named else "",
        background=BACKGROUND_PHRASE[scene.background] if "background" in named else "",
    )
    return " ".join(text.split())


def named_attributes(caption: str, scene: Scene) -> frozenset[str]:
    """Which of ATTRIBUTES a caption of the scene names."""
    words = {
        "color": scene.color,
        "side": SIDE_PHRASE[scene.side],
        "background": BACKGROUND_PHRASE[scene.background],
    }
    return frozenset(attribute for attribute in ATTRIBUTES if words[attribute] in caption)


def _subject(class_name: str, color: str = "") -> str:
    article, noun, action = _WORDING[class_name]
    if color and article:
        article = "a"
    return " ".join(word for word in (article, color, noun, action) if word)


def _random_attributes(rng: np.random.Generator) -> frozenset[str]:
    chance = rng.random()
    some = _SOME[rng.integers(len(_SOME))]
    if chance < 0.60:
        return frozenset(ATTRIBUTES)
    return frozenset() if chance < 0.75 else some
