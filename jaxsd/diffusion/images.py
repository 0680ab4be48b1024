"""Images as arrays for the VAE."""

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from PIL import Image

from jaxsd.clip.images import rgb_array


def prepare_image(
    image: Image.Image | ArrayLike, height: int, width: int
) -> Float[np.ndarray, "batch {height} {width} 3"]:
    """RGB of the given size, float32 in [0, 1].

    `image` is a PIL image of any mode (batch 1), or an array in [0, 1] of shape (batch, any height, any width, 3).
    Images are stretched to the size by a Lanczos filter. Raises ValueError where the array or the number of pixels
    does not fit.
    """
    images = rgb_array(image)[None] if isinstance(image, Image.Image) else np.asarray(image, np.float32)
    if images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        raise ValueError(f"image has shape {images.shape}; allowed: (batch, height, width, 3)")
    if not (images.min() >= 0 and images.max() <= 1):  # false for NaN too
        raise ValueError(f"image has values from {images.min()} to {images.max()}; allowed: 0 to 1")
    if images.shape[1:3] == (height, width):
        return images
    return np.stack([resize(image, height, width) for image in images])


def resize(
    image: Float[np.ndarray, "_ _ channels"], height: int, width: int
) -> Float[np.ndarray, "{height} {width} channels"]:
    """Lanczos-filtered to the size. What the filter overshoots is cut off."""
    channels = [Image.fromarray(channel) for channel in np.moveaxis(image, -1, 0)]
    resized = [np.asarray(channel.resize((width, height), Image.Resampling.LANCZOS)) for channel in channels]
    return np.stack(resized, axis=-1).clip(0, 1)
