"""The toy world: scenes, captions, images and sounds of ten classes."""

from jaxsd.toy.world.examples import (
    WORLD_SPLITS,
    Example,
    captions,
    example,
    images,
    make_examples,
    scenes,
    sounds,
    write_files,
    write_samples,
    write_study_files,
)
from jaxsd.toy.world.scene import BACKGROUNDS, CLASSES, COLORS, SIDES, Scene
from jaxsd.toy.world.synthesis import SAMPLE_RATE
from jaxsd.toy.world.wording import ATTRIBUTES, BACKGROUND_PHRASE, SIDE_PHRASE, class_caption, named_attributes

__all__ = [
    "ATTRIBUTES",
    "BACKGROUNDS",
    "BACKGROUND_PHRASE",
    "CLASSES",
    "COLORS",
    "SAMPLE_RATE",
    "SIDES",
    "SIDE_PHRASE",
    "WORLD_SPLITS",
    "Example",
    "Scene",
    "captions",
    "class_caption",
    "example",
    "images",
    "make_examples",
    "named_attributes",
    "scenes",
    "sounds",
    "write_files",
    "write_samples",
    "write_study_files",
]
