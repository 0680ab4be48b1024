"""Layers that the U-Net and the VAE share: normalization, residual block, attention, resampling.

Attribute names follow the parameter names of diffusers, so that the mapping between them is short. All feature maps
are (batch, height, width, channels).
"""

from collections.abc import Callable
from functools import partial, wraps

import jax
import jax.numpy as jnp
from flax import nnx

from encoders.attention import attention
from jaxsd.diffusion.kernels import convolve


def remat_where_asked(call: Callable) -> Callable:
    """For the `__call__` of a block: where the block's `remat` is true, the gradient computes its activations again."""

    @wraps(call)
    def wrapped(self, *inputs):
        return jax.checkpoint(partial(call, self))(*inputs) if self.remat else call(self, *inputs)

    return wrapped


def conv(features_in: int, features_out: int, size: int, *, dtype, rngs) -> nnx.Conv:
    """A square convolution with torch's symmetric padding (size // 2)."""
    return nnx.Conv(
        features_in,
        features_out,
        (size, size),
        padding=size // 2,
        dtype=dtype,
        conv_general_dilated=convolve,
        rngs=rngs,
    )


def group_norm(features: int, groups: int, eps: float, *, dtype, rngs) -> nnx.GroupNorm:
    return nnx.GroupNorm(features, groups, epsilon=eps, dtype=dtype, rngs=rngs)


class ResnetBlock(nnx.Module):
    """GroupNorm, SiLU, 3x3 convolution, twice; the time embedding is added in between."""

    def __init__(self, features_in, features_out, time_features, groups, eps, *, dtype, rngs):
        self.remat = False
        norm = partial(group_norm, groups=groups, eps=eps, dtype=dtype, rngs=rngs)
        self.norm1 = norm(features_in)
        self.conv1 = conv(features_in, features_out, 3, dtype=dtype, rngs=rngs)
        if time_features:
            self.time_emb_proj = nnx.Linear(time_features, features_out, dtype=dtype, rngs=rngs)
        self.norm2 = norm(features_out)
        self.conv2 = conv(features_out, features_out, 3, dtype=dtype, rngs=rngs)
        if features_in != features_out:
            self.conv_shortcut = conv(features_in, features_out, 1, dtype=dtype, rngs=rngs)

    @remat_where_asked
    def __call__(self, x, time=None):
        h = self.conv1(jax.nn.silu(self.norm1(x)))
        if time is not None:
            h = h + self.time_emb_proj(jax.nn.silu(time))[:, None, None, :]
        h = self.conv2(jax.nn.silu(self.norm2(h)))
        return h + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class Attention(nnx.Module):
    """Multi-head attention of `x` (B, T, C) over `context` (B, S, C'), or over itself."""

    def __init__(self, features, context_features, heads, *, bias, dtype, rngs):
        linear = partial(nnx.Linear, dtype=dtype, rngs=rngs)
        self.heads = heads
        self.to_q = linear(features, features, use_bias=bias)
        self.to_k = linear(context_features, features, use_bias=bias)
        self.to_v = linear(context_features, features, use_bias=bias)
        self.to_out = linear(features, features)

    def keys_values(self, context):
        """`context` (B, S, C') -> keys and values, (B, S, heads, C / heads) each."""
        return self._split(self.to_k(context)), self._split(self.to_v(context))

    def _split(self, x):
        return x.reshape(*x.shape[:2], self.heads, -1)

    def __call__(self, x, keys_values=None):
        k, v = self.keys_values(x) if keys_values is None else keys_values
        return self.to_out(attention(self._split(self.to_q(x)), k, v).reshape(x.shape))


class Downsample(nnx.Module):
    """Halves height and width by a strided 3x3 convolution.

    The U-Net pads both sides by one; the VAE pads only the far sides (`asymmetric`).
    """

    def __init__(self, features, *, asymmetric=False, dtype, rngs):
        padding = ((0, 1), (0, 1)) if asymmetric else 1
        self.conv = nnx.Conv(features, features, (3, 3), strides=2, padding=padding, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return self.conv(x)


class Upsample(nnx.Module):
    """Grows the map to `size` (height, width) by nearest neighbour, then a 3x3 convolution."""

    def __init__(self, features, *, dtype, rngs):
        self.conv = conv(features, features, 3, dtype=dtype, rngs=rngs)

    def __call__(self, x, size=None):
        height, width = size or (2 * x.shape[1], 2 * x.shape[2])
        return self.conv(resize_nearest(x, height, width))


def resize_nearest(x, height, width):
    """Nearest-neighbour resize as torch does it: source index = floor(i * in / out)."""
    if (height, width) == (2 * x.shape[1], 2 * x.shape[2]):
        return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    vertical = jnp.arange(height) * x.shape[1] // height
    horizontal = jnp.arange(width) * x.shape[2] // width
    return x[:, vertical][:, :, horizontal]
