"""Rows of a manifest -> arrays; in worker processes, so nothing here imports JAX."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from jaxsd.audio import RATE, load_clip
from jaxsd.clip.images import resize_and_crop
from jaxsd.data.workers import Examples
from jaxsd.diffusion.images import load_image, rgb

# Modes that Pillow turns into RGB as they should be; the others go through `rgb`.
PLAIN = ("RGB", "L", "P", "CMYK", "YCbCr", "1")


class Entry(NamedTuple):
    """A row of a manifest; what the file leaves out is None. `start` is in seconds."""

    row: int
    audio: str | None
    image: str | None
    text: str | None
    start: float | None


def decode_entries(
    entries: list[Entry], folder: Path, clip_size: int, vae_size: int | None, given_up: str | None = None
) -> Examples:
    """The sounds and pictures of rows, whose paths are relative to `folder`, zeros where a row is bad.

    `clip_size` and `vae_size` are the sides in pixels of the pictures that CLIP and the VAE take. `given_up` says why
    none of the rows is to be read.
    """
    count = len(entries)
    rows = Examples(
        columns={
            "audio": np.zeros((count, RATE), np.int16),
            "row": np.array([entry.row for entry in entries], np.int64),
        },
        captions=[entry.text or "" for entry in entries],
        pictures=np.zeros((count, clip_size, clip_size, 3), np.uint8),
        vae_pictures=None if vae_size is None else np.zeros((count, vae_size, vae_size, 3), np.uint8),
        bad={},
    )
    for place, entry in enumerate(entries):
        file = ""
        try:
            if given_up:
                raise ValueError(given_up)
            if not (entry.text or "").strip():
                raise ValueError("the caption is empty")
            file = entry.audio or ""
            rows.columns["audio"][place] = load_clip(_path(folder, file), entry.start).samples
            file = entry.image or ""
            image = rgb_image(load_image(_path(folder, file)))
            rows.pictures[place] = resize_and_crop(image, clip_size)
            if vae_size is not None:
                rows.vae_pictures[place] = resize_and_crop(image, vae_size, Image.Resampling.LANCZOS)
        except Exception as error:  # whatever a decoder makes of a broken file, the row is left out and listed
            rows.bad[place] = {"row": entry.row, "file": file, "reason": _reason(error)}
    return rows


def rgb_image(image: Image.Image) -> Image.Image:
    """A picture of any mode as 8-bit RGB: turned as its EXIF says, what is transparent over white."""
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
