"""The judge: a classifier that says which class, color, background and side a 64x64 image shows.

The judge is a small convolutional network. It was trained on the toy world's own images alone, independently of CLIP
and of the U-Net, so that it can score generated images without asking the models that made them.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8

from jaxsd.data.features import to_float
from jaxsd.pretrained.mapping import abstract_model
from jaxsd.pretrained.weights import read_parameters
from jaxsd.runtime import bundled
from jaxsd.toy import world

QUESTIONS = {
    "class": world.CLASSES,
    "color": world.COLORS,
    "background": world.BACKGROUNDS,
    "side": world.SIDES,
}
"""What the judge says of an image, and the answers that each question has."""

_ATTRIBUTES = {"class": "class_name"}  # of a scene that hold the true answer, where the name differs from the question


class Judge(nnx.Module):
    """Four strided convolutions, then one linear head a question."""

    def __init__(self, *, rngs: nnx.Rngs):
        widths = (3, 24, 32, 48, 64)
        conv = partial(nnx.Conv, kernel_size=(3, 3), strides=2, padding=1, rngs=rngs)
        self.convs = nnx.List([conv(a, b) for a, b in zip(widths, widths[1:], strict=False)])
        self.norms = nnx.List([nnx.GroupNorm(width, 8, rngs=rngs) for width in widths[1:]])
        self.hidden = nnx.Linear(4 * 4 * widths[-1], 128, rngs=rngs)
        self.heads = nnx.Dict({name: nnx.Linear(128, len(answers), rngs=rngs) for name, answers in QUESTIONS.items()})

    def __call__(self, images: Float[Array, "batch 64 64 3"]) -> dict[str, Float[Array, "batch _"]]:
        """Images in [-1, 1] -> logits of the answers to each of QUESTIONS."""
        x = images
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = jax.nn.silu(norm(conv(x)))
        x = jax.nn.silu(self.hidden(x.reshape(len(x), -1)))
        return {name: head(x) for name, head in self.heads.items()}


def load_judge() -> Judge:
    """The trained judge that ships with the package."""
    return read_parameters(abstract_model(Judge), bundled.TOY_JUDGE)


def true_answers(scenes: Sequence[world.Scene]) -> dict[str, Int[np.ndarray, " scenes"]]:
    """The index of the true answer to each of QUESTIONS, int32."""
    return {
        question: np.array(
            [answers.index(getattr(scene, _ATTRIBUTES.get(question, question))) for scene in scenes], np.int32
        )
        for question, answers in QUESTIONS.items()
    }


def verdicts(
    judge: Judge,
    images: UInt8[np.ndarray, "n 64 64 3"] | Float[np.ndarray, "n 64 64 3"],
    scenes: Sequence[world.Scene],
    captions: Sequence[str] = (),
) -> dict[str, Bool[np.ndarray, " _"]]:
    """In which images the judge sees what is true of their scenes.

    Args:
        judge: the classifier.
        images: uint8, or float in [0, 1].
        scenes: the scene that each image should show.
        captions: the captions that the images were made from, if there are any.

    Returns:
        By question, whether the judge's answer is the true one, for every image. `class=...` holds the answers to
        "class" of the images of that class alone. With captions, `named color` holds the answers to "color" of the
        images whose caption names the color, and so on.
    """
    pixels = to_float(images) if images.dtype == np.uint8 else jnp.asarray(images) * 2 - 1
    logits = nnx.jit(lambda judge, pixels: judge(pixels))(judge, pixels)
    truth = true_answers(scenes)
    right = {question: np.asarray(logits[question].argmax(axis=-1)) == truth[question] for question in QUESTIONS}
    for index, name in enumerate(world.CLASSES):
        right[f"class={name}"] = right["class"][truth["class"] == index]
    if captions:
        named = [world.named_attributes(caption, scene) for caption, scene in zip(captions, scenes, strict=True)]
        for attribute in world.ATTRIBUTES:
            right[f"named {attribute}"] = right[attribute][[attribute in names for names in named]]
    return right
