"""CLIP's text and vision towers (Radford et al., arXiv 2103.00020), as transformers' CLIPModel configures them.

Attribute names follow transformers' parameter names, so that the mapping between them is short.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from encoders.attention import attention

LEGACY_EOS = 2  # what configs older than transformers 4.31 say by mistake, where it is the highest id
ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": partial(jax.nn.gelu, approximate=False),
}


@dataclass(frozen=True)
class TowerConfig:
    """What the two towers have in common, under transformers' names and with transformers' defaults."""

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    def __post_init__(self):
        for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: from 1")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"num_attention_heads is {self.num_attention_heads}; allowed: divisors of hidden_size")
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act is {self.hidden_act!r}; allowed: {', '.join(ACTIVATIONS)}")


@dataclass(frozen=True)
class TextConfig(TowerConfig):
    vocab_size: int = 49408
    max_position_embeddings: int = 77
    eos_token_id: int = 49407

    def __post_init__(self):
        super().__post_init__()
        if self.max_position_embeddings < 2:
            raise ValueError(f"max_position_embeddings is {self.max_position_embeddings}; allowed: from 2")


@dataclass(frozen=True)
class VisionConfig(TowerConfig):
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    image_size: int = 224
    patch_size: int = 32

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.patch_size <= self.image_size:
            raise ValueError(f"patch_size is {self.patch_size}; allowed: 1 to image_size, {self.image_size}")


class TowerAttention(nnx.Module):
    def __init__(self, features, heads, *, dtype, rngs):
        linear = partial(nnx.Linear, features, features, dtype=dtype, rngs=rngs)
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = linear(), linear(), linear(), linear()

    def __call__(self, x, causal):
        q, k, v = (f(x).reshape(*x.shape[:2], self.heads, -1) for f in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(attention(q, k, v, causal=causal).reshape(x.shape))


class TowerMLP(nnx.Module):
    def __init__(self, config: TowerConfig, *, dtype, rngs):
        self.activation = ACTIVATIONS[config.hidden_act]
        self.fc1 = nnx.Linear(config.hidden_size, config.intermediate_size, dtype=dtype, rngs=rngs)
        self.fc2 = nnx.Linear(config.intermediate_size, config.hidden_size, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return self.fc2(self.activation(self.fc1(x)))


class TowerLayer(nnx.Module):
    """Pre-norm transformer layer."""

    def __init__(self, config: TowerConfig, *, dtype, rngs):
        options = {"dtype": dtype, "rngs": rngs}
        self.layer_norm1 = nnx.LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps, **options)
        self.self_attn = TowerAttention(config.hidden_size, config.num_attention_heads, **options)
        self.layer_norm2 = nnx.LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps, **options)
        self.mlp = TowerMLP(config, **options)

    def __call__(self, x, causal):
        x = x + self.self_attn(self.layer_norm1(x), causal)
        return x + self.mlp(self.layer_norm2(x))


class TextOutput(NamedTuple):
    hidden_states: jax.Array  # (batch, tokens, hidden_size), after the final norm: what Stable Diffusion attends to
    pooled: jax.Array  # (batch, hidden_size), the hidden state of the end-of-text token


class TextModel(nnx.Module):
    """Token ids -> hidden states. Attention is causal: a hidden state depends only on the tokens up to its own."""

    def __init__(self, config: TextConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        self.config = config
        embed = partial(
            nnx.Embed,
            features=config.hidden_size,
            dtype=dtype,
            embedding_init=nnx.initializers.normal(0.02),
            rngs=rngs,
        )
        self.token_embedding = embed(config.vocab_size)
        self.position_embedding = embed(config.max_position_embeddings)
        self.layers = nnx.List([TowerLayer(config, dtype=dtype, rngs=rngs) for _ in range(config.num_hidden_layers)])
        self.final_layer_norm = nnx.LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps, dtype=dtype, rngs=rngs)

    def __call__(
        self, tokens: Int[Array, "batch tokens"], vectors: Float[Array, "vectors features"] | None = None, skip: int = 0
    ) -> TextOutput:
        """Hidden states of token ids.

        The ids from `vocab_size` on stand for `vectors`, in their order. The last `skip` layers are left out ("clip
        skip"); the final norm is not.
        """
        x = self._embed(tokens, vectors) + self.position_embedding(jnp.arange(tokens.shape[1]))[None]
        for layer in list(self.layers)[: len(self.layers) - skip]:
            x = layer(x, causal=True)
        x = self.final_layer_norm(x).astype(jnp.float32)
        return TextOutput(x, x[jnp.arange(len(x)), self.end_of_text(tokens)])

    def _embed(self, tokens, vectors):
        if vectors is None:
            return self.token_embedding(tokens)
        size = self.config.vocab_size
        own = self.token_embedding(jnp.minimum(tokens, size - 1))
        added = vectors.astype(own.dtype)[jnp.clip(tokens - size, 0, len(vectors) - 1)]
        return jnp.where((tokens < size)[..., None], own, added)

    def end_of_text(self, tokens: Int[Array, "batch tokens"]) -> Int[Array, " batch"]:
        """Position of the end-of-text token.

        It is the highest id where a config says LEGACY_EOS.
        """
        if self.config.eos_token_id == LEGACY_EOS:
            return jnp.where(tokens < self.config.vocab_size, tokens, 0).argmax(axis=-1)
        return (tokens == self.config.eos_token_id).argmax(axis=-1)


class VisionModel(nnx.Module):
    """Normalized images -> pooled embedding: the class token after the last norm."""

    def __init__(self, config: VisionConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        self.config = config
        width, patch = config.hidden_size, config.patch_size
        options = {"dtype": dtype, "rngs": rngs}
        self.class_embedding = nnx.Param(jax.random.normal(rngs.params(), (width,)) * width**-0.5)
        self.patch_embedding = nnx.Conv(
            3, width, (patch, patch), strides=patch, padding="VALID", use_bias=False, **options
        )
        self.position_embedding = nnx.Embed(
            (config.image_size // patch) ** 2 + 1,
            width,
            embedding_init=nnx.initializers.normal(0.02),
            **options,
        )
        norm = partial(nnx.LayerNorm, width, epsilon=config.layer_norm_eps, **options)
        self.pre_layernorm = norm()
        self.layers = nnx.List([TowerLayer(config, **options) for _ in range(config.num_hidden_layers)])
        self.post_layernorm = norm()

    def __call__(self, pixels: Float[Array, "batch height width 3"]) -> Float[Array, "batch features"]:
        patches = self.patch_embedding(pixels)
        batch, width = len(pixels), patches.shape[-1]
        first = jnp.broadcast_to(self.class_embedding[...].astype(patches.dtype), (batch, 1, width))
        x = jnp.concatenate([first, patches.reshape(batch, -1, width)], axis=1)
        x = self.pre_layernorm(x + self.position_embedding(jnp.arange(x.shape[1]))[None])
        for layer in self.layers:
            x = layer(x, causal=False)
        return self.post_layernorm(x[:, 0]).astype(jnp.float32)


class CLIPModel(nnx.Module):
    """Both towers with their projections into the shared space."""

    def __init__(
        self, text: TextConfig, vision: VisionConfig, projection_dim: int, *, dtype=jnp.float32, rngs: nnx.Rngs
    ):
        project = partial(nnx.Linear, out_features=projection_dim, use_bias=False, dtype=dtype, rngs=rngs)
        self.text_model = TextModel(text, dtype=dtype, rngs=rngs)
        self.vision_model = VisionModel(vision, dtype=dtype, rngs=rngs)
        self.text_projection = project(text.hidden_size)
        self.visual_projection = project(vision.hidden_size)
        self.logit_scale = nnx.Param(jnp.array(2.6592))  # ln(1 / 0.07)

    def embed_text(self, tokens: Int[Array, "batch tokens"]) -> Float[Array, "batch projection"]:
        """Unit-norm text embeddings, float32."""
        return normalize(self.text_projection(self.text_model(tokens).pooled))

    def embed_image(self, pixels: Float[Array, "batch height width 3"]) -> Float[Array, "batch projection"]:
        """Unit-norm image embeddings, float32, of images normalized by the image processor's mean and std."""
        return normalize(self.visual_projection(self.vision_model(pixels)))


def normalize(x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
    """Unit L2 norm along the last axis, float32."""
    x = x.astype(jnp.float32)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
