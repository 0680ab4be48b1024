"""The encoder designed by the paper's authors: residual 1-D convolutions over the raw waveform (arXiv 2509.09717)."""

import math
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from encoders import layers
from encoders.base import AudioEncoder
from encoders.registry import register
from encoders.spectrogram import SAMPLES, TOKENS, Clips, waveform

# Each block's channels, from its input to its output, and the kernel size of its steps.
BLOCKS = (((1, 2, 4), 25), ((4, 8, 16), 5), ((16, 32, 64), 3), ((64, TOKENS), 3))

kaiming_normal = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")


@register("human")
class Human(AudioEncoder):
    """(batch, 16000) clips -> (batch, 77, width) float32. The output is not normalized.

    stride: of the first convolution, 1 in the paper; all that follows is as many times shorter and faster.
    """

    operations = {
        "Dropout": 1,
        "SiLU": 1,
        "adaptive avg pool": 1,
        "adaptive max pool": 2,
        "branching": 1,
    }

    def __init__(
        self,
        *,
        width: int = 768,
        stride: int = 1,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.width, self.stride = width, stride
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        time = -(-SAMPLES // stride)
        strides = (stride, 1, 1, 1)
        self.blocks = nnx.List(
            [Block(*sizes, stride, time, **options) for sizes, stride in zip(BLOCKS, strides, strict=True)]
        )
        self.avg = Head(width, **options)
        self.max = Head(width, **options)
        self.min = Head(width, **options)

    @property
    def config(self) -> dict[str, int]:
        return {"width": self.width, "stride": self.stride}

    def __call__(self, clips: Clips, *, rngs: nnx.Rngs | jax.Array | None = None) -> Float[Array, "batch 77 width"]:
        """Encode one-second clips, int16 PCM or floats in [-1, 1]; dropout is on only if `rngs` is given."""
        x = waveform(clips)[:, None, :]
        for block, key in zip(self.blocks, layers.split_key(layers.dropout_key(rngs), len(BLOCKS)), strict=True):
            x = block(x, key)
        return (
            self.avg(adaptive_pool(x, self.width, average))
            + self.max(adaptive_pool(x, self.width, largest))
            + self.min(adaptive_pool(x, self.width, smallest))
        )


class Block(nnx.Module):
    """Convolution, SiLU and LayerNorm over time, once or twice, beside a 1x1 convolution of the input.

    The first step and the shortcut have the stride; `time` is the length of the output.
    """

    operations: ClassVar[dict[str, int]] = {"branching": 1}

    def __init__(
        self,
        channels: tuple[int, ...],
        size: int,
        stride: int = 1,
        time: int = SAMPLES,
        *,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.remat = False
        options = {"kernel_init": kaiming_normal, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        steps = list(zip(channels, channels[1:], strict=False))
        strides = (stride, 1)
        self.convs = nnx.List(
            [layers.Conv1d(*step, size, stride, **options) for step, stride in zip(steps, strides, strict=False)]
        )
        self.norms = nnx.List([layers.layer_norm(time, param_dtype=param_dtype, rngs=rngs) for _ in steps])
        self.adapter = layers.Conv1d(channels[0], channels[-1], 1, stride, **options)

    @layers.remat_block
    def __call__(
        self, x: Float[Array, "batch before samples"], key: jax.Array | None = None
    ) -> Float[Array, "batch after time"]:
        shortcut = self.adapter(x)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(jax.nn.silu(conv(x)))
        return layers.dropout(x, key) + shortcut


class Head(nnx.Module):
    """A linear layer over the pooled time axis plus a 1x1 convolution over the channels, of the same input."""

    operations: ClassVar[dict[str, int]] = {"branching": 1}

    def __init__(self, width: int, *, dtype: DTypeLike, param_dtype: DTypeLike, rngs: nnx.Rngs):
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.linear = layers.linear(width, width, kernel_init=kaiming_normal, **options)
        self.adapter = layers.Conv1d(TOKENS, TOKENS, 1, **options)

    def __call__(self, x: Float[Array, "batch 77 width"]) -> Float[Array, "batch 77 width"]:
        return (self.linear(x) + self.adapter(x)).astype(jnp.float32)


def adaptive_pool(
    x: Float[Array, "batch channels time"], width: int, reduce: Callable[[jax.Array], jax.Array]
) -> Float[Array, "batch channels {width}"]:
    """Reduce `width` windows; window i covers [floor(i * time / width), ceil((i + 1) * time / width))."""
    batch, channels, time = x.shape
    # The windows repeat: for 16000 samples and 768 windows there are 6 in every 125 samples. Slicing these 6 is three
    # times faster than gathering all windows.
    periods = math.gcd(time, width)
    x = x.reshape(batch, channels, periods, time // periods)
    windows = [(i * time // width, -(-(i + 1) * time // width)) for i in range(width // periods)]
    pooled = jnp.stack([reduce(x[..., begin:end]) for begin, end in windows], axis=-1)
    return pooled.reshape(batch, channels, width)


def average(x: Float[Array, "*batch window"]) -> Float[Array, "*batch"]:
    return x.mean(axis=-1)


def largest(x: Float[Array, "*batch window"]) -> Float[Array, "*batch"]:
    return _at(x, x.argmax(axis=-1))


def smallest(x: Float[Array, "*batch window"]) -> Float[Array, "*batch"]:
    return _at(x, x.argmin(axis=-1))


def _at(x: Float[Array, "*batch window"], index: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """The sample at `index` of the last axis.

    The gradient of `max` looks for samples that equal the maximum. Under jit it may look in values computed a second
    time and rounded otherwise, and find none: with `max` here, gradients were up to 98 % off on CPUs with FMA.
    """
    return jnp.where(jax.nn.one_hot(index, x.shape[-1], dtype=bool), x, 0).sum(axis=-1)
