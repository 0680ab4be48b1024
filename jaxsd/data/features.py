"""Captions and images -> the columns that CLIP and the VAE make of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float32, UInt8

from jaxsd.clip.pipeline import CLIP
from jaxsd.clip.tokens import tokenize
from jaxsd.data.build import CHUNK
from jaxsd.data.columns import ColumnType
from jaxsd.data.workers import Examples
from jaxsd.diffusion.vae import VAE
from jaxsd.sharding import local_mesh, replicated_sharding, shard_batch

VAE_PIXELS = 2**21  # that a device encodes at once: 8 images of 512 x 512


class FeatureTowers:
    """CLIP's two towers, and the VAE's encoder where there is one, over batches of one size on this host's devices.

    `vae_size` is the side in pixels of the images that the VAE takes.
    """

    def __init__(self, clip: CLIP, vae: VAE | None = None, vae_size: int | None = None):
        self._mesh = local_mesh(CHUNK)
        for model in (clip.model, vae):
            if model is not None:
                nnx.update(model, jax.device_put(nnx.state(model), replicated_sharding(self._mesh)))
        self.clip, self.vae, self.vae_size = clip, vae, vae_size
        self._encode = nnx.jit(lambda vae, x: vae.encode(to_float(x)).mean * vae.config.scaling_factor)

    @property
    def clip_size(self) -> int:
        """The side in pixels of the images that CLIP takes."""
        return self.clip.model.vision_model.config.image_size

    @property
    def metadata(self) -> dict[str, Any]:
        return {"pooling": "eos", "eos_token_id": self.clip.tokenizer.eos_token_id}

    @property
    def column_types(self) -> dict[str, ColumnType]:
        """The columns that the towers make."""
        projection = (self.clip.model.text_projection.out_features,)
        types = {
            "text": ColumnType(np.float16, projection),
            "image": ColumnType(np.float16, projection),
            "tokens": ColumnType(np.int32, (self.clip.tokenizer.model_max_length,)),
        }
        if self.vae is not None:
            side = self.vae_size // self.vae.config.factor
            types["latents"] = ColumnType(np.float16, (side, side, self.vae.config.latent_channels))
        return types

    def __call__(self, examples: Examples) -> dict[str, np.ndarray | jax.Array]:
        """Columns of CHUNK examples, of which those beyond `examples` mean nothing. The device may not be done yet."""
        tokens = _padded(tokenize(self.clip.tokenizer, examples.captions))
        columns = {
            "text": self.clip.embed_tokens(self._shard(tokens)).astype(jnp.float16),
            "image": self.clip.embed_arrays(self._shard(_padded(examples.images))).astype(jnp.float16),
            "tokens": tokens,
        }
        if self.vae is not None:
            columns["latents"] = self._latents(_padded(examples.vae_images))
        return columns

    def _latents(self, images: np.ndarray) -> jax.Array:
        batch = min(CHUNK, self._mesh.size * max(1, VAE_PIXELS // self.vae_size**2))
        parts = (images[first : first + batch] for first in range(0, CHUNK, batch))
        return jnp.concatenate([self._encode(self.vae, self._shard(part)).astype(jnp.float16) for part in parts])

    def _shard(self, batch: np.ndarray) -> jax.Array:
        return shard_batch(batch, self._mesh)


def to_float(
    images: UInt8[np.ndarray | jax.Array, "batch height width 3"],
) -> Float32[jax.Array, "batch height width 3"]:
    """Images as the VAE takes them: in [-1, 1]."""
    return jnp.asarray(images, jnp.float32) / 127.5 - 1


def _padded(batch: np.ndarray) -> np.ndarray:
    return np.concatenate([batch, np.zeros((CHUNK - len(batch), *batch.shape[1:]), batch.dtype)])
