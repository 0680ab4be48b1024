"""Layers the U-Net and the VAE share: normalisation, residual block, attention, resampling.

Attribute names follow diffusers' parameter names, so that `jaxsd.convert` is a short table.
All feature maps are (batch, height, width, channels).
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from encoders.layers import remat_block

SMALL_MAP = 64  # positions up to which XLA's convolution on the CPU loses to a matrix product
BLOCK = 128  # queries whose attention weights, over the keys of one head, stay in a CPU core's cache


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


def convolve(x, kernel, strides, padding, **options):
    """`jax.lax.conv_general_dilated` of stride 1; on the CPU and a small map, one matrix product of all patches."""
    height, width = x.shape[1:3]
    if jax.default_backend() != "cpu" or height * width > SMALL_MAP:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = kernel.shape[:2]
    patches = [x[:, i : i + height, j : j + width] for i in range(rows) for j in range(columns)]
    return jnp.dot(jnp.concatenate(patches, axis=-1), kernel.reshape(-1, kernel.shape[-1]))


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

    @remat_block
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


def attention(
    q: Float[Array, "batch queries heads features"],
    k: Float[Array, "batch keys heads features"],
    v: Float[Array, "batch keys heads features"],
) -> Float[Array, "batch queries heads features"]:
    """softmax(q k^T / sqrt(features)) v, the softmax in float32, by what is fastest on the default device.

    cuDNN's fused kernel takes 16-bit floats and heads of certain sizes. On the CPU, many queries are taken head by head
    and BLOCK at a time, which also bounds the memory.
    """
    if q.dtype in (jnp.bfloat16, jnp.float16) and q.shape[-1] % 8 == 0 and q.shape[-1] <= _largest_fused_head():
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    if jax.default_backend() == "cpu" and q.shape[1] > BLOCK:
        return _attention_in_blocks(q, k, v)
    return jax.nn.dot_product_attention(q, k, v)


@cache
def _largest_fused_head() -> int:
    """Features of the largest head of cuDNN's fused attention on the default device, 0 where it has none."""
    device = jax.local_devices()[0]
    if "cuda" not in device.client.platform_version:
        return 0
    capability = float(device.compute_capability)
    return 256 if capability >= 9 else 128 if capability >= 8 else 0


def _attention_in_blocks(q, k, v):
    def head(qkv):
        q, k, v = qkv

        def query(q):
            logits = jnp.dot(q, k.T, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
            return jnp.dot(jax.nn.softmax(logits).astype(v.dtype), v)

        return jax.lax.map(query, q, batch_size=BLOCK)

    heads_first = [x.swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[3]) for x in (q, k, v)]
    out = jax.lax.map(head, tuple(heads_first))
    return out.reshape(q.shape[0], q.shape[2], q.shape[1], q.shape[3]).swapaxes(1, 2)


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
        return self.conv(nearest(x, height, width))


def nearest(x, height, width):
    """Nearest-neighbour resize as torch does it: source index = floor(i * in / out)."""
    if (height, width) == (2 * x.shape[1], 2 * x.shape[2]):
        return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    rows = jnp.arange(height) * x.shape[1] // height
    columns = jnp.arange(width) * x.shape[2] // width
    return x[:, rows][:, :, columns]
