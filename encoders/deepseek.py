"""The encoder designed by DeepSeek: patches of the waveform into a deep Transformer (arXiv 2509.09717)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from encoders import layers
from encoders.base import AudioEncoder
from encoders.registry import register
from encoders.spectrogram import TOKENS, Clips, waveform
from encoders.transformer import Transformer


@register("deepseek")
class DeepSeek(AudioEncoder):
    """(batch, 16000) clips -> (batch, 77, width) float32."""

    def __init__(
        self,
        *,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp: int = 3072,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.width, self.depth, self.heads, self.mlp = width, depth, heads, mlp
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.proj = layers.PatchConv1d(width, **options)
        self.pos_embed = nnx.Param(jax.random.normal(rngs.params(), (TOKENS, width), param_dtype))
        self.transformer = Transformer(width, depth, heads, mlp, **options)

    @property
    def config(self) -> dict[str, int]:
        return {"width": self.width, "depth": self.depth, "heads": self.heads, "mlp": self.mlp}

    def __call__(self, clips: Clips, *, rngs: nnx.Rngs | jax.Array | None = None) -> Float[Array, "batch 77 width"]:
        """Encode one-second clips, int16 PCM or floats in [-1, 1]; dropout is on only if `rngs` is given."""
        x = self.proj(waveform(clips)) + self.pos_embed[None]
        return self.transformer(x, layers.dropout_key(rngs))
