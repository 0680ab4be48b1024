"""Images as arrays for the VAE."""

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from PIL import Image

from jaxsd.clip.images import rgb_array, rgb_image


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


def prepare_mask(
    mask: Image.Image | ArrayLike, height: int, width: int
) -> Float[np.ndarray, "batch {height} {width} 1"]:
    """A mask of the given size: 1 where an image is painted anew, 0 where it stays; gray is 1 from the middle on.

    `mask` is a PIL image of any mode, white where it is transparent (batch 1), or an array in [0, 1] of shape (any
    height, any width), (batch, any height, any width) or (batch, any height, any width, 1). Masks are stretched as
    images are. Raises ValueError where the array does not fit.
    """
    if isinstance(mask, Image.Image):
        masks = (rgb_array(mask) @ np.array([0.299, 0.587, 0.114], np.float32))[None]
        masks = np.round(masks * 255) / np.float32(255)
    else:
        masks = np.asarray(mask, np.float32)
        if masks.ndim == 4 and masks.shape[-1] == 1:
            masks = masks[..., 0]
        masks = masks[None] if masks.ndim == 2 else masks
    if masks.ndim != 3 or not masks.size:
        raise ValueError(f"mask has shape {masks.shape}; allowed: (height, width) or (batch, height, width)")
    if not (masks.min() >= 0 and masks.max() <= 1):  # false for NaN too
        raise ValueError(f"mask has values from {masks.min()} to {masks.max()}; allowed: 0 to 1")
    if masks.shape[1:] != (height, width):
        images = [Image.fromarray(np.round(one * 255).astype(np.uint8)) for one in masks]
        resized = [image.resize((width, height), Image.Resampling.LANCZOS) for image in images]
        masks = np.stack([np.asarray(image, np.float32) for image in resized]) / 255
    return (masks >= 0.5).astype(np.float32)[..., None]


def pad_image(image: Image.Image, left: int, top: int, right: int, bottom: int) -> tuple[Image.Image, Image.Image]:
    """An image with a border of so many pixels, and the mask that paints the border: outpainting.

    The border repeats the edge. Raises ValueError for a negative number.
    """
    if min(left, top, right, bottom) < 0:
        raise ValueError(f"the border is {left}, {top}, {right}, {bottom} pixels; allowed: from 0")
    pixels = np.asarray(rgb_image(image))
    sides = (top, bottom), (left, right)
    mask = np.pad(np.zeros(pixels.shape[:2], np.uint8), sides, constant_values=255)
    return Image.fromarray(np.pad(pixels, (*sides, (0, 0)), mode="edge")), Image.fromarray(mask)


def resize(
    image: Float[np.ndarray, "_ _ channels"], height: int, width: int
) -> Float[np.ndarray, "{height} {width} channels"]:
    """Lanczos-filtered to the size. What the filter overshoots is cut off."""
    channels = [Image.fromarray(channel) for channel in np.moveaxis(image, -1, 0)]
    resized = [np.asarray(channel.resize((width, height), Image.Resampling.LANCZOS)) for channel in channels]
    return np.stack(resized, axis=-1).clip(0, 1)
