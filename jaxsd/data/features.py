"""Captions and images -> the columns that CLIP and the VAE make of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float32, UInt8
from PIL import Image

from jaxsd.clip.images import resize_and_crop
from jaxsd.clip.pipeline import CLIP, TEXT_TOWER, VISION_TOWER
from jaxsd.clip.tokens import tokenize
from jaxsd.data.columns import ColumnType
from jaxsd.data.workers import Examples
from jaxsd.diffusion.vae import VAE
from jaxsd.pretrained.precision import require_finite
from jaxsd.runtime.sharding import local_mesh, replicated_sharding, shard_batch

# How many examples a device takes at once: as many of the large batches as there are, and small ones for the rest, so
# that few examples cost little, and only two programs are compiled.
FULL_BATCH, REST_BATCH = 64, 8
NETWORKS = {"text": TEXT_TOWER, "image": VISION_TOWER, "latents": "the VAE's encoder"}  # that make the columns
VAE_PIXELS = 2**21  # that a device encodes at once: 8 images of 512 x 512


class FeatureTowers:
    """CLIP's two towers, the VAE's encoder, or both, on the devices of this process.

    Args:
        clip: makes text, image and tokens; None: these are not made.
        vae: makes latents; None: these are not made.
        vae_size: the side in pixels of the images that the VAE takes.
    """

    def __init__(self, clip: CLIP | None, vae: VAE | None = None, vae_size: int | None = None):
        self._mesh = local_mesh(jax.local_device_count())
        for model in (clip.model if clip else None, vae):
            if model is not None:
                nnx.update(model, jax.device_put(nnx.state(model), replicated_sharding(self._mesh)))
        self.clip, self.vae, self.vae_size = clip, vae, vae_size
        self._encode = nnx.jit(lambda vae, x: vae.encode(to_float(x)).mean * vae.config.scaling_factor)

    def __reduce__(self):
        """Ray sends towers to its actors, whose devices are others."""
        return FeatureTowers, (self.clip, self.vae, self.vae_size)

    @property
    def clip_size(self) -> int | None:
        """The side in pixels of the images that CLIP takes."""
        return self.clip.model.vision_model.config.image_size if self.clip else None

    @property
    def metadata(self) -> dict[str, Any]:
        return {"pooling": "eos", "eos_token_id": self.clip.tokenizer.eos_token_id} if self.clip else {}

    @property
    def column_types(self) -> dict[str, ColumnType]:
        """The columns that the towers make."""
        types = {}
        if self.clip:
            projection = (self.clip.model.text_projection.out_features,)
            types["text"] = types["image"] = ColumnType(np.float16, projection)
            types["tokens"] = ColumnType(np.int32, (self.clip.tokenizer.model_max_length,))
        if self.vae is not None and self.vae_size is not None:
            side = self.vae_size // self.vae.config.factor
            types["latents"] = ColumnType(np.float16, (side, side, self.vae.config.latent_channels))
        return types

    def __call__(self, examples: Examples) -> dict[str, np.ndarray | jax.Array]:
        """The columns of the examples. Those on the device may not be done yet."""
        columns = {}
        if self.clip:
            columns["tokens"] = tokenize(self.clip.tokenizer, examples.captions)
            columns["text"] = self._in_batches(self.clip.embed_tokens, columns["tokens"])
            columns["image"] = self._in_batches(self.clip.embed_arrays, examples.images)
        if self.vae is not None and self.vae_size is not None:
            most = max(1, VAE_PIXELS // self.vae_size**2)
            columns["latents"] = self._in_batches(
                lambda images: self._encode(self.vae, images), examples.vae_images, most
            )
        return columns

    def check(self, columns: Mapping[str, np.ndarray]):
        """Raise ValueError, naming the network, where columns that the towers made are not finite."""
        for name, network in NETWORKS.items():
            if name in columns:
                require_finite(columns[name], network)

    def embed_text(self, captions: Sequence[str]) -> Float32[np.ndarray, "n projection"]:
        """CLIP's unit-norm embeddings of captions, as the column `text` has them."""
        assert self.clip
        tokens = tokenize(self.clip.tokenizer, list(captions))
        return _unit_embeddings(self._in_batches(self.clip.embed_tokens, tokens), NETWORKS["text"])

    def embed_images(self, images: Sequence[Image.Image]) -> Float32[np.ndarray, "n projection"]:
        """CLIP's unit-norm embeddings of images of any size, as the column `image` has them."""
        assert self.clip and self.clip_size
        arrays = np.stack([np.asarray(resize_and_crop(image, self.clip_size)) for image in images])
        return _unit_embeddings(self._in_batches(self.clip.embed_arrays, arrays), NETWORKS["image"])

    def _in_batches(self, function: Callable, examples: np.ndarray | None, most: int = FULL_BATCH) -> jax.Array:
        """`function` of all examples, in float16; a device takes no more than `most` at once."""
        assert examples is not None
        sizes = [min(size, most) * self._mesh.size for size in (FULL_BATCH, REST_BATCH)]
        parts = []
        for first, size in _split(len(examples), *sizes):
            batch = examples[first : first + size]
            empty = np.zeros((size - len(batch), *batch.shape[1:]), batch.dtype)
            made = function(shard_batch(np.concatenate([batch, empty]), self._mesh))
            parts.append(made[: len(batch)].astype(jnp.float16))
        return jnp.concatenate(parts)


def _unit_embeddings(embeddings: jax.Array, network: str) -> Float32[np.ndarray, "n projection"]:
    """Embeddings of float16 as float32 of norm 1."""
    require_finite(embeddings, network)
    rows = np.asarray(embeddings, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _split(count: int, large: int, small: int) -> Iterator[tuple[int, int]]:
    """Batches of two sizes for so many examples: where each begins, and its size."""
    first = 0
    while first < count:
        size = large if count - first >= large else small
        yield first, size
        first += size


def to_float(images: UInt8[Any, "batch height width 3"]) -> Float32[jax.Array, "batch height width 3"]:
    """Images as the VAE takes them: in [-1, 1]."""
    return jnp.asarray(images, jnp.float32) / 127.5 - 1
