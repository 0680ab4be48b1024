"""Rows of a manifest -> arrays. Worker processes do this, so nothing here imports JAX."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from jaxsd.audio import RATE, load_clip
from jaxsd.clip.images import resize_and_crop
from jaxsd.data.manifest import ManifestRow
from jaxsd.data.workers import Examples
from jaxsd.diffusion.images import load_image, rgb

# Modes that Pillow turns into RGB as they should be; the others go through `rgb`.
PLAIN = ("RGB", "L", "P", "CMYK", "YCbCr", "1")


def decode_rows(
    rows: list[ManifestRow], folder: Path, clip_size: int, vae_size: int | None, given_up: str | None = None
) -> Examples:
    """Read the sounds and images of rows.

    Args:
        rows: the rows; either all have a class or none has.
        folder: what their paths are relative to.
        clip_size: the side in pixels of the images that CLIP takes.
        vae_size: the side in pixels of the images that the VAE takes; None where it takes none.
        given_up: why none of the rows is to be read.

    Returns:
        The examples; those that could not be read are zeros and are listed in `bad`.
    """
    count = len(rows)
    examples = Examples(
        columns={
            "audio": np.zeros((count, RATE), np.int16),
            "row": np.array([row.row for row in rows], np.int64),
        },
        captions=[row.text or "" for row in rows],
        images=np.zeros((count, clip_size, clip_size, 3), np.uint8),
        vae_images=None if vae_size is None else np.zeros((count, vae_size, vae_size, 3), np.uint8),
        bad={},
    )
    if rows[0].class_index is not None:
        examples.columns["class"] = np.array([row.class_index for row in rows], np.int32)
    for index, row in enumerate(rows):
        file = ""
        try:
            if given_up:
                raise ValueError(given_up)
            if not (row.text or "").strip():
                raise ValueError("the caption is empty")
            file = row.audio or ""
            examples.columns["audio"][index] = load_clip(_path(folder, file), row.start).samples
            file = row.image or ""
            image = rgb_image(load_image(_path(folder, file)))
            examples.images[index] = resize_and_crop(image, clip_size)
            if vae_size is not None:
                examples.vae_images[index] = resize_and_crop(image, vae_size, Image.Resampling.LANCZOS)
        except Exception as error:  # whatever a decoder makes of a broken file, the row is left out and listed
            examples.bad[index] = {"row": row.row, "file": file, "reason": _reason(error)}
    return examples


def rgb_image(image: Image.Image) -> Image.Image:
    """An image of any mode as 8-bit RGB: turned as its EXIF says, what is transparent over white."""
    if image.mode in PLAIN and not image.has_transparency_data:
        return ImageOps.exif_transpose(image).convert("RGB")
    return Image.fromarray(np.round(rgb(image).clip(0, 1) * 255).astype(np.uint8))


def _path(folder: Path, name: str) -> Path:
    if not name:
        raise ValueError("no file is named")
    return folder / name


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split())
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
