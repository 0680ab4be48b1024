"""The Transformer encoder that chatgpt, deepseek, gemini and grok share.

As `torch.nn.TransformerEncoder` with batch_first, exact GELU and dropout in four places of each layer; layers are
initialized independently. Parameters have param_dtype, matrix products and the residual stream dtype, and norms and
softmax are computed in float32.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from encoders import layers
from encoders.attention import attention, pad_positions
from encoders.dropout_attention import attention_with_dropout

# Its gradient computes it again from its input, which the product before has kept.
gelu = jax.checkpoint(partial(jax.nn.gelu, approximate=False))

Linear = Callable[..., nnx.Linear]  # of features in, features out and nnx.Linear's options: fixes the initialization


class MultiheadAttention(nnx.Module):
    """Multi-head self-attention with one fused projection for queries, keys and values, in that order."""

    counted_as: ClassVar[str] = "MultiheadAttention"

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        linear: Linear,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads, self.dtype = heads, dtype
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        # torch.nn.MultiheadAttention sees one (3 * width, width) matrix, and starts both biases at zero.
        zeros = nnx.initializers.zeros_init()
        xavier = nnx.initializers.xavier_uniform()
        self.in_proj = nnx.Linear(width, 3 * width, kernel_init=xavier, bias_init=zeros, **options)
        self.out_proj = linear(width, width, bias_init=zeros, **options)

    def __call__(
        self, x: Float[Array, "positions width"], time: int, length: int, key: jax.Array | None = None
    ) -> Float[Array, "positions width"]:
        """Attention within each `time` positions, of which the first `length` are attended to."""
        width = x.shape[-1]
        projection = self.in_proj
        assert projection.bias is not None
        # As three products: the slices of one would be copied, for cuDNN's attention takes whole arrays.
        kernels, biases = (
            jnp.split(p.astype(self.dtype), 3, axis=-1) for p in (projection.kernel[...], projection.bias[...])
        )
        q, k, v = (
            (x.astype(self.dtype) @ kernel + bias[None]).reshape(-1, time, self.heads, width // self.heads)
            for kernel, bias in zip(kernels, biases, strict=True)
        )
        out: Any = (
            attention(q, k, v, length=length)
            if key is None
            else attention_with_dropout(q, k, v, jax.random.bits(key, (2,)), length, layers.DROPOUT)
        )
        return self.out_proj(out.reshape(x.shape))


class TransformerLayer(nnx.Module):
    """Self-attention and a GELU feed-forward, each with a residual, and a norm before or after."""

    operations: ClassVar[dict[str, int]] = {"Dropout": 3, "branching": 2}

    def __init__(
        self,
        width: int,
        heads: int,
        mlp: int,
        *,
        norm_first: bool,
        linear: Linear,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.norm_first, self.remat = norm_first, False
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.self_attn = MultiheadAttention(width, heads, linear=linear, **options)
        self.linear1 = linear(width, mlp, **options)
        self.linear2 = linear(mlp, width, **options)
        self.norm1 = layers.layer_norm(width, **options)
        self.norm2 = layers.layer_norm(width, **options)

    @layers.remat_block
    def __call__(
        self, x: Float[Array, "positions width"], key: jax.Array | None = None, *, time: int, length: int
    ) -> Float[Array, "positions width"]:
        """Each `time` positions are one example, which attends to the first `length` of its own."""
        attention_key, feed_forward_key = layers.split_key(key, 2)
        attend = partial(self.attend, time=time, length=length, key=attention_key)
        if self.norm_first:
            x = x + attend(self.norm1(x))
            return x + self.feed_forward(self.norm2(x), feed_forward_key)
        x = self.norm1(x + attend(x))
        return self.norm2(x + self.feed_forward(x, feed_forward_key))

    def attend(
        self, x: Float[Array, "positions width"], time: int, length: int, key: jax.Array | None
    ) -> Float[Array, "positions width"]:
        weights_key, out_key = layers.split_key(key, 2)
        return layers.dropout(self.self_attn(x, time, length, weights_key), out_key)

    def feed_forward(
        self, x: Float[Array, "positions width"], key: jax.Array | None
    ) -> Float[Array, "positions width"]:
        hidden_key, out_key = layers.split_key(key, 2)
        hidden = layers.dropout(gelu(self.linear1(x)), hidden_key)
        return layers.dropout(self.linear2(hidden), out_key)


class Transformer(nnx.Module):
    """A stack of layers, and with norm_first a last LayerNorm."""

    # An activation counts once however often it is used, as in the paper.
    operations: ClassVar[dict[str, int]] = {"GELU": 1}

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        mlp: int,
        *,
        norm_first: bool = False,
        linear: Linear = layers.linear,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        options = {"norm_first": norm_first, "linear": linear, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.dtype = dtype
        self.layers = nnx.List([TransformerLayer(width, heads, mlp, **options) for _ in range(depth)])
        self.norm = layers.layer_norm(width, param_dtype=param_dtype, rngs=rngs) if norm_first else None

    def __call__(
        self, x: Float[Array, "batch time width"], key: jax.Array | None = None
    ) -> Float[Array, "batch time width"]:
        length = x.shape[1]
        # 16-bit products and fused attention want even sides: 77 positions are 80, of which the last are never seen.
        if jnp.dtype(self.dtype).itemsize == 2:
            x = pad_positions(x)
        batch, time, width = x.shape
        # The positions of all examples are one axis, over which the gradients of kernels sum without a transpose.
        x = x.reshape(-1, width).astype(self.dtype)
        for layer, layer_key in zip(self.layers, layers.split_key(key, len(self.layers)), strict=True):
            x = layer(x, layer_key, time=time, length=length)
        x = x.astype(jnp.float32) if self.norm is None else self.norm(x)
        return x.reshape(batch, time, width)[:, :length]
