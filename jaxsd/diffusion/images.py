"""Pictures of any kind as arrays for the VAE."""

import warnings

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError

WHITE = (255, 255, 255, 255)


def load_image(path) -> Image.Image:
    """The picture in a file. Raises FileNotFoundError, or ValueError naming the file where it is none or too large."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path)
            image.load()
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(f"{path} has too many pixels; allowed: up to {Image.MAX_IMAGE_PIXELS}") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} cannot be read as a picture") from None
    return image


def prepare_image(
    image: Image.Image | np.ndarray, height: int, width: int
) -> Float[np.ndarray, "batch height width 3"]:
    """RGB of the given size, float32 in [0, 1], of a PIL image (batch 1) or of an array (batch, any, any, 3) in [0, 1].

    Lanczos-filtered and stretched to the size. Raises ValueError where the array or the number of pixels does not fit.
    """
    pictures = rgb(image)[None] if isinstance(image, Image.Image) else np.asarray(image, np.float32)
    if pictures.ndim != 4 or pictures.shape[-1] != 3 or not pictures.size:
        raise ValueError(f"image has shape {pictures.shape}; allowed: (batch, height, width, 3)")
    if not (pictures.min() >= 0 and pictures.max() <= 1):  # false for NaN too
        raise ValueError(f"image has values from {pictures.min()} to {pictures.max()}; allowed: 0 to 1")
    if pictures.shape[1:3] == (height, width):
        return pictures
    return np.stack([resize(picture, height, width) for picture in pictures])


def rgb(image: Image.Image) -> Float[np.ndarray, "height width 3"]:
    """A PIL image of any mode, float32 in [0, 1]: turned as its EXIF says, what is transparent over white."""
    if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        pixels = image.width * image.height
        raise ValueError(f"image has {pixels} pixels; allowed: up to {Image.MAX_IMAGE_PIXELS}")
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        # Pillow's conversion to RGB would cut these off at 255; "I" and "I;16" hold 16 bits, "F" is taken as it is.
        grey = np.asarray(image, np.float32) / (1 if image.mode == "F" else 65535)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.mode == "La":  # premultiplied, which Pillow takes to LA alone
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
    return np.asarray(image.convert("RGB"), np.float32) / 255


def resize(
    picture: Float[np.ndarray, "image_height image_width channels"], height: int, width: int
) -> Float[np.ndarray, "height width channels"]:
    """Lanczos-filtered to the size, what the filter overshoots cut off."""
    channels = [Image.fromarray(channel) for channel in np.moveaxis(picture, -1, 0)]
    resized = [np.asarray(channel.resize((width, height), Image.Resampling.LANCZOS)) for channel in channels]
    return np.stack(resized, axis=-1).clip(0, 1)
