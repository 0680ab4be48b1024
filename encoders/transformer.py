"""The Transformer encoder that chatgpt, deepseek, gemini and grok share.

As `torch.nn.TransformerEncoder` with batch_first, exact GELU and dropout in four places of each layer; layers are
initialized independently. Parameters have param_dtype, matrix products run in dtype, and the residual stream, norms
and softmax stay in float32.
"""

from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from encoders import layers

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
        self.heads = heads
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        # torch.nn.MultiheadAttention sees one (3 * width, width) matrix, and starts both biases at zero.
        zeros = nnx.initializers.zeros_init()
        xavier = nnx.initializers.xavier_uniform()
        self.in_proj = nnx.Linear(width, 3 * width, kernel_init=xavier, bias_init=zeros, **options)
        self.out_proj = linear(width, width, bias_init=zeros, **options)

    def __call__(
        self, x: Float[Array, "batch time width"], key: jax.Array | None = None
    ) -> Float[Array, "batch time width"]:
        batch, time, width = x.shape
        qkv = self.in_proj(x).reshape(batch, time, 3, self.heads, width // self.heads)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        out = jax.nn.dot_product_attention(q, k, v) if key is None else _attend_with_dropout(q, k, v, key)
        return self.out_proj(out.reshape(batch, time, width))


def _attend_with_dropout(
    q: Float[Array, "batch time heads features"],
    k: Float[Array, "batch time heads features"],
    v: Float[Array, "batch time heads features"],
    key: jax.Array,
) -> Float[Array, "batch time heads features"]:
    """Attention that drops weights after the softmax, which `jax.nn.dot_product_attention` cannot."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    weights = layers.dropout(jax.nn.softmax(scores), key)
    return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(v.dtype), v)


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
        self.norm1 = layers.layer_norm(width, param_dtype=param_dtype, rngs=rngs)
        self.norm2 = layers.layer_norm(width, param_dtype=param_dtype, rngs=rngs)

    @layers.remat_block
    def __call__(
        self, x: Float[Array, "batch time width"], key: jax.Array | None = None
    ) -> Float[Array, "batch time width"]:
        attention_key, feed_forward_key = layers.split_key(key, 2)
        if self.norm_first:
            x = x + self.attend(self.norm1(x), attention_key)
            return x + self.feed_forward(self.norm2(x), feed_forward_key)
        x = self.norm1(x + self.attend(x, attention_key))
        return self.norm2(x + self.feed_forward(x, feed_forward_key))

    def attend(self, x: Float[Array, "batch time width"], key: jax.Array | None) -> Float[Array, "batch time width"]:
        weights_key, out_key = layers.split_key(key, 2)
        return layers.dropout(self.self_attn(x, weights_key), out_key)

    def feed_forward(
        self, x: Float[Array, "batch time width"], key: jax.Array | None
    ) -> Float[Array, "batch time width"]:
        hidden_key, out_key = layers.split_key(key, 2)
        hidden = layers.dropout(jax.nn.gelu(self.linear1(x), approximate=False), hidden_key)
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
        self.layers = nnx.List([TransformerLayer(width, heads, mlp, **options) for _ in range(depth)])
        self.norm = layers.layer_norm(width, param_dtype=param_dtype, rngs=rngs) if norm_first else None

    def __call__(
        self, x: Float[Array, "batch time width"], key: jax.Array | None = None
    ) -> Float[Array, "batch time width"]:
        for layer, layer_key in zip(self.layers, layers.split_key(key, len(self.layers)), strict=True):
            x = layer(x, layer_key)
        return x if self.norm is None else self.norm(x)
