"""The encoder designed by the paper's authors: residual 1-D convolutions over the raw waveform (arXiv 2509.09717)."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
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
        self.width, self.stride, self.dtype = width, stride, dtype
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
        x = waveform(clips)[:, None, :].astype(self.dtype)
        for block, key in zip(self.blocks, layers.split_key(layers.dropout_key(rngs), len(BLOCKS)), strict=True):
            x = block(x, key)
        mean, most, least = adaptive_pools(x, self.width)
        return self.avg(mean) + self.max(most) + self.min(least)


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
        norm = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.norms = nnx.List([layers.layer_norm(time, **norm) for _ in steps])
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


def adaptive_pools(
    x: Float[Array, "batch channels time"], width: int
) -> tuple[Float[Array, "batch channels {width}"], ...]:
    """The mean, the largest and the smallest value of `width` windows each, as PyTorch's adaptive pools."""
    windows = _windows(x.shape[2], width)
    if x.dtype.itemsize == 2 and _are_even(windows):
        pools: Any = _even_pools(windows, x.dtype, x)
        return tuple(pool.astype(x.dtype).reshape(*x.shape[:2], width) for pool in pools)
    return tuple(adaptive_pool(x, width, reduce) for reduce in (average, largest, smallest))


def adaptive_pool(
    x: Float[Array, "batch channels time"], width: int, reduce: Callable[[jax.Array], jax.Array]
) -> Float[Array, "batch channels {width}"]:
    """Reduce `width` windows; window i covers [floor(i * time / width), ceil((i + 1) * time / width))."""
    batch, channels, time = x.shape
    # Slicing the windows of a period is three times faster than gathering all windows.
    windows = _windows(time, width)
    x = x.reshape(batch, channels, -1, windows[-1][1])
    pooled = jnp.stack([reduce(x[..., begin:end]) for begin, end in windows], axis=-1)
    return pooled.reshape(batch, channels, width)


def _windows(time: int, width: int) -> tuple[tuple[int, int], ...]:
    """The windows of a period, for they repeat: 6 in every 125 samples for 16000 samples and 768 windows."""
    count = width // math.gcd(time, width)
    return tuple((i * time // width, -(-(i + 1) * time // width)) for i in range(count))


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


def _are_even(windows: tuple[tuple[int, int], ...]) -> bool:
    """Whether windows begin equally far apart, but for fewer samples in the first, and overlap by one sample."""
    apart = np.diff([begin for begin, _ in windows])
    overlaps = [end - begin for (_, end), (begin, _) in zip(windows, windows[1:], strict=False)]
    return len(windows) > 1 and set(apart[1:]) == {windows[-1][1] - windows[-1][0]} and set(overlaps) == {1}


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _even_pools(windows: tuple[tuple[int, int], ...], dtype: jnp.dtype, x: jax.Array) -> tuple[jax.Array, ...]:
    """`adaptive_pools` of x, which is of `dtype`: (batch, channels, periods, windows) each, float32.

    One reduction makes all three and reads x once, where the slices of x would be written first.
    """
    return _even_pools_and_positions(windows, dtype, x)[0]


def _even_pools_and_positions(
    windows: tuple[tuple[int, int], ...], dtype: jnp.dtype, x: jax.Array
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """The three pools, and where in a period the largest and the smallest value of each window are."""
    samples, size = windows[-1][1], windows[-1][1] - windows[-1][0]
    x = x.reshape(*x.shape[:2], -1, samples).astype(jnp.float32)
    missing = size * len(windows) - samples
    position = jax.lax.broadcasted_iota(jnp.int32, x.shape, 3)

    def cut(x, outside):
        padded = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (missing, 0)), constant_values=outside)
        return padded.reshape(*x.shape[:3], len(windows), size)

    def combine(one, other):
        result = [one[0] + other[0]]
        for i, sign in ((1, 1), (3, -1)):
            wins = (sign * one[i] > sign * other[i]) | ((one[i] == other[i]) & (one[i + 1] < other[i + 1]))
            result += [jnp.where(wins, one[k], other[k]) for k in (i, i + 1)]
        return tuple(result)

    nothing = np.float32(0), np.float32(-np.inf), np.int32(samples), np.float32(np.inf), np.int32(samples)
    cuts = tuple(cut(value, outside) for value, outside in zip((x, x, position, x, position), nothing, strict=True))
    found = jax.lax.reduce(cuts, nothing, combine, (4,))
    # A window's last sample is the first of what the next window begins with.
    begins = [begin for begin, _ in windows[1:]]

    def first_of_next(value, outside):
        return jnp.stack([*(value[..., begin] for begin in begins), jnp.full(value.shape[:3], outside)], axis=-1)

    shared = [
        first_of_next(value, outside) for value, outside in zip((x, x, position, x, position), nothing, strict=True)
    ]
    total, most, at_most, least, at_least = combine(found, shared)
    return (total / _window_sizes(windows), most, least), (at_most.astype(jnp.int16), at_least.astype(jnp.int16))


def _even_pools_gradient(
    windows: tuple[tuple[int, int], ...],
    dtype: jnp.dtype,
    positions: tuple[jax.Array, ...],
    gradients: tuple[jax.Array, ...],
) -> tuple[jax.Array]:
    mean, *extremes = gradients
    mean = mean / _window_sizes(windows)
    position = jax.lax.broadcasted_iota(jnp.int16, (*mean.shape[:3], windows[-1][1]), 3)
    x = jnp.zeros(position.shape, jnp.float32)
    for i, (begin, end) in enumerate(windows):
        x += jnp.where((position >= begin) & (position < end), mean[..., i, None], 0)
        for at, gradient in zip(positions, extremes, strict=True):
            x += jnp.where(position == at[..., i, None], gradient[..., i, None], 0)
    return (x.reshape(*x.shape[:2], -1).astype(dtype),)


_even_pools.defvjp(_even_pools_and_positions, _even_pools_gradient)


def _window_sizes(windows: tuple[tuple[int, int], ...]) -> np.ndarray:
    return np.array([end - begin for begin, end in windows], np.float32)[None, None, None]
