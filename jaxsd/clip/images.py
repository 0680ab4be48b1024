"""Image files of any kind as RGB, and of any size as the vision tower takes them.

Worker processes read images, so nothing here imports JAX.
"""

import warnings
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COMPRESSION,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    SAMPLEFORMAT,
    TiffImageFile,
)

from jaxsd.runtime.files import StoredFile, check_not_pointer

# Pillow refuses files with more text or a larger color profile than 1 MiB, which are images all the same.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 64 * 2**20

# Which files of the format ISO-BMFF are HEIC: the iPhone's photographs.
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
OPAQUE_WHITE = (255, 255, 255, 255)
# Modes that Pillow itself turns into RGB as they should be.
PLAIN_MODES = ("RGB", "L", "P", "CMYK", "YCbCr", "1")
# The largest values that numbers of more than 8 bits may stand for white with; the least that fits counts.
WHITES = {"F": (1.0, 255.0), "I": (255.0, 65535.0)}
SIGNED = 2  # TIFF's SampleFormat
# Formats of drawings, which Pillow leaves to a program that may be there (Ghostscript) or to Windows.
DRAWINGS = {"EPS": "PostScript", "WMF": "a Windows metafile", "EMF": "a Windows metafile"}


def load_image(path: str | Path | StoredFile) -> Image.Image:
    """Read an image file. Raises FileNotFoundError, or ValueError naming the file where it is no image or too large."""
    if isinstance(path, StoredFile) or Path(path).is_file():
        check_not_pointer(path)
    elif Path(path).is_dir():
        raise ValueError(f"{path} is a folder; give an image file")
    try:
        _register_heif()
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path.open() if isinstance(path, StoredFile) else path)
            if image.format in DRAWINGS:
                raise ValueError(_drawing(DRAWINGS[image.format]))
            image.load()
            image = _as_stored(image)
            if image.mode in WHITES:
                _white(np.asarray(image), image.mode)  # refuses what is no image, by the name of the file
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(f"{path} has too many pixels; allowed: up to {Image.MAX_IMAGE_PIXELS}") from None
    except (FileNotFoundError, PermissionError):
        raise
    except UnidentifiedImageError:
        raise ValueError(f"{path} cannot be read as an image: {_why_unknown(path)}") from None
    except Exception as error:  # there is no telling what damaged bytes lead a decoder to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be read as an image: {reason}") from None
    return image


def _as_stored(image: Image.Image) -> Image.Image:
    """An image with the values that its file means, where Pillow's differ. Raises ValueError where they cannot be had.

    Pillow gives PGM of more than 8 bits as 32-bit integers up to 65535, gray TIFF of 12 bits and of signed integers as
    it lies there, and of TIFF whose white is 0 it turns gray of 8 bits alone. It mixes up raw planes of 16 bits.
    """
    if image.format == "PPM" and image.mode == "I":
        return Image.fromarray(np.asarray(image).astype(np.uint16))
    if not isinstance(image, TiffImageFile):
        return image
    tags = image.tag_v2
    bits = max(tags.get(BITSPERSAMPLE, (1,)))
    if bits > 8 and tags.get(PLANAR_CONFIGURATION) == 2 and tags.get(COMPRESSION) == 1:
        raise ValueError(f"it is a TIFF of {bits} bits in planes without compression, which Pillow mixes up")
    white_is_zero = tags.get(PHOTOMETRIC_INTERPRETATION) == 0
    if white_is_zero and image.mode == "F":
        raise ValueError("it is a TIFF of floats whose white is 0; save it with black at 0")
    if tags.get(SAMPLEFORMAT, (1,))[0] == SIGNED and bits in (8, 16):
        return _from_signed(np.asarray(image), bits)
    if image.mode != "I;16" or not (white_is_zero or bits == 12):
        return image
    gray = np.asarray(image) / (2**bits - 1)
    return Image.fromarray(np.round(65535 * (1 - gray if white_is_zero else gray)).astype(np.uint16))


def _from_signed(gray: np.ndarray, bits: int) -> Image.Image:
    """Gray of signed integers, whose white is their largest or, of 16 bits where none is above it, 255."""
    gray = gray.astype(np.int8) if bits == 8 else gray
    if gray.min() < 0:
        raise ValueError(f"it is a TIFF of signed integers with values from {gray.min()}; allowed: from 0")
    white = 255 if bits == 16 and gray.max() <= 255 else 2 ** (bits - 1) - 1
    return Image.fromarray(np.round(gray / white * 65535).astype(np.uint16))


@cache
def _register_heif():
    """Let Pillow read HEIC where its plugin is installed: the plugin does not announce itself."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return
    register_heif_opener()


def _why_unknown(path: str | Path | StoredFile) -> str:
    """Why Pillow does not know the format of a file."""
    with (path if isinstance(path, StoredFile) else Path(path)).open("rb") as file:
        beginning = file.read(1024)
    if beginning[4:8] == b"ftyp" and beginning[8:12] in HEIF_BRANDS:
        return "it is HEIC, which Pillow reads where its plugin is installed (pip install pillow-heif)"
    if b"<svg" in beginning or beginning[:2] == b"\x1f\x8b" and str(path).lower().endswith(".svgz"):
        return _drawing("SVG")
    if beginning.lstrip().startswith(b"%PDF"):
        return "it is a PDF document, which has no pixels; convert its page to PNG"
    return "its format is not one that Pillow knows"


def _drawing(kind: str) -> str:
    return f"it is a drawing ({kind}), which has no pixels; convert it to PNG"


def rgb_image(image: Image.Image) -> Image.Image:
    """`rgb_array` as an 8-bit RGB image."""
    if image.mode in PLAIN_MODES and not image.has_transparency_data:
        _check_size(image)
        return ImageOps.exif_transpose(image).convert("RGB")
    return Image.fromarray(np.round(rgb_array(image) * 255).astype(np.uint8))


def rgb_array(image: Image.Image) -> Float[np.ndarray, "height width 3"]:
    """An image of any mode as float32 in [0, 1], turned as its EXIF says, and over white where it is transparent.

    Images of 16 bits have white at 65535. Images of 32-bit integers do not say where white is: it is at 255 or, where
    they have larger values, at 65535. Images of floats likewise have it at 1 or at 255. Raises ValueError where a value
    fits none of these or is not finite, and where there are more pixels than Pillow allows.
    """
    _check_size(image)
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        # Pillow's conversion to RGB would cut these off at 255.
        stored = np.asarray(image, np.float32)
        gray = stored / (65535 if image.mode.startswith("I;16") else _white(stored, image.mode[0]))
        gray[stored == image.info.get("transparency")] = 1  # the one value of a PNG that is transparent
        return np.repeat(gray[..., None], 3, axis=-1)
    if image.mode == "La":  # premultiplied, which Pillow converts to LA alone
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, OPAQUE_WHITE), image)
    return np.asarray(image.convert("RGB"), np.float32) / 255


def _white(gray: np.ndarray, mode: str) -> float:
    """The value that stands for white."""
    low, high = float(gray.min()), float(gray.max())
    white = next((white for white in WHITES[mode] if 0 <= low and high <= white), None)  # none for NaN
    if white is None:
        allowed = " or ".join(f"0 to {white:g}" for white in WHITES[mode])
        raise ValueError(f"image has values from {low:g} to {high:g}; allowed: {allowed}")
    return white


def _check_size(image: Image.Image) -> None:
    if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        pixels = image.width * image.height
        raise ValueError(f"image has {pixels} pixels; allowed: up to {Image.MAX_IMAGE_PIXELS}")


def resize_and_crop(
    image: Image.Image, size: int, resample: Image.Resampling = Image.Resampling.BICUBIC
) -> Image.Image:
    """Resize the shortest side to `size` and cut out the square in the middle, as CLIP's image processor does.

    `image` has any mode and becomes RGB; `resample` is bicubic in CLIP. Raises ValueError for an image so narrow that
    it would grow beyond Pillow's limit of pixels.
    """
    image = rgb_image(image)
    scale = size / min(image.size)
    width, height = (max(size, int(side * scale)) for side in image.size)
    if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
        raise ValueError(f"image is {image.width} x {image.height}, too narrow to be resized to {size} pixels")
    image = image.resize((width, height), resample)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))
