"""The judge: says which thing, colour, background and side a 64x64 picture shows.

A small convolutional network trained on the toy world's pictures alone, independent of CLIP and of the generator, so
that generated pictures can be scored without asking the models that made them.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from encoders.layers import abstract
from jaxsd import bundled
from jaxsd.pretrained.mapping import read_parameters
from jaxsd.toy import world

QUESTIONS = {
    "thing": world.THINGS,
    "colour": world.COLOURS,
    "background": world.BACKGROUNDS,
    "side": world.SIDES,
}


class Judge(nnx.Module):
    """Four strided convolutions, then one linear head a question."""

    def __init__(self, *, rngs: nnx.Rngs):
        widths = (3, 24, 32, 48, 64)
        conv = partial(nnx.Conv, kernel_size=(3, 3), strides=2, padding=1, rngs=rngs)
        self.convs = nnx.List([conv(a, b) for a, b in zip(widths, widths[1:], strict=False)])
        self.norms = nnx.List([nnx.GroupNorm(width, 8, rngs=rngs) for width in widths[1:]])
        self.hidden = nnx.Linear(4 * 4 * widths[-1], 128, rngs=rngs)
        self.heads = nnx.Dict({name: nnx.Linear(128, len(answers), rngs=rngs) for name, answers in QUESTIONS.items()})

    def __call__(self, pictures: Float[Array, "batch 64 64 3"]) -> dict[str, Float[Array, "batch answers"]]:
        """Pictures in [-1, 1] -> logits of the answers to each of QUESTIONS."""
        x = pictures
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = jax.nn.silu(norm(conv(x)))
        x = jax.nn.silu(self.hidden(x.reshape(len(x), -1)))
        return {name: head(x) for name, head in self.heads.items()}


def labels(scenes) -> dict[str, jax.Array]:
    """The true answers, int32 (len(scenes),) a question."""
    return {
        name: jnp.array([answers.index(getattr(scene, name)) for scene in scenes])
        for name, answers in QUESTIONS.items()
    }


def load_judge() -> Judge:
    """The trained judge that ships with the package."""
    return read_parameters(abstract(Judge), bundled.TOY_JUDGE)
