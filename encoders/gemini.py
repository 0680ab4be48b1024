"""The encoder designed by Gemini: a log-mel spectrogram into a pre-norm Transformer (arXiv 2509.09717)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from encoders import layers
from encoders.base import AudioEncoder
from encoders.registry import register
from encoders.spectrogram import TOKENS, Clips, decibels_below_peak, mel_spectrogram, standardize, waveform
from encoders.transformer import Transformer

BANDS = 80


@register("gemini")
class Gemini(AudioEncoder):
    """(batch, 16000) clips -> (batch, 77, width) float32."""

    def __init__(
        self,
        *,
        width: int = 768,
        depth: int = 8,
        heads: int = 12,
        mlp: int = 3072,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.width, self.depth, self.heads, self.mlp = width, depth, heads, mlp
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.proj = _linear(BANDS, width, **options)
        self.pos_embed = nnx.Param(jax.random.normal(rngs.params(), (TOKENS, width), param_dtype))
        self.transformer = Transformer(width, depth, heads, mlp, norm_first=True, linear=_linear, **options)

    @property
    def config(self) -> dict[str, int]:
        return {"width": self.width, "depth": self.depth, "heads": self.heads, "mlp": self.mlp}

    def __call__(self, clips: Clips, *, rngs: nnx.Rngs | jax.Array | None = None) -> Float[Array, "batch 77 width"]:
        """Encode one-second clips, int16 PCM or floats in [-1, 1]; dropout is on only if `rngs` is given."""
        # The library the paper used takes the dB floor from the loudest clip of the batch; here it is per clip.
        x = standardize(decibels_below_peak(mel_spectrogram(waveform(clips), bands=BANDS)))
        x = self.proj(x) + self.pos_embed[None]
        return self.transformer(x, layers.dropout_key(rngs))


def _linear(features_in: int, features_out: int, **kwargs) -> nnx.Linear:
    """Xavier-uniform with the gain for ReLU, sqrt(2), and zero bias."""
    init: dict[str, Any] = {"kernel_init": nnx.initializers.variance_scaling(2.0, "fan_avg", "uniform")}
    return nnx.Linear(features_in, features_out, **init | kwargs)
