"""Rows of a manifest -> arrays. Worker processes do this, so nothing here imports JAX."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxsd.audio import RATE, load_clip
from jaxsd.clip.images import load_image, resize_and_crop, rgb_image
from jaxsd.data.manifest import ManifestRow, Reference, open_path
from jaxsd.data.stores import SourcePath, StoreError
from jaxsd.data.video import is_video, sharpest_frame
from jaxsd.data.workers import Examples
from jaxsd.runtime.files import POINTER_BEGINNING, StoredFile


def decode_rows(
    rows: Sequence[ManifestRow],
    folder: SourcePath,
    clip_size: int | None,
    vae_size: int | None,
    given_up: str | None = None,
    open_file: Callable[[SourcePath, Any], Path | StoredFile] = open_path,
) -> Examples:
    """Read the sounds and images of rows.

    Args:
        rows: the rows; either all have a class or none has.
        folder: what their paths are relative to.
        clip_size: the side in pixels of the images that CLIP takes. None: only the images of the VAE are made.
        vae_size: the side in pixels of the images that the VAE takes. None: the VAE takes none.
        given_up: why none of the rows is to be read.
        open_file: opens what a row refers to, as `Manifest.open_file`.

    Returns:
        The examples; those that could not be read are zeros and are listed in `bad`.

    Raises:
        StoreError: an object store fails, which is no fault of a row.
    """
    examples = _make_empty(rows, clip_size, vae_size)
    for index, row in enumerate(rows):
        file, start = "", row.start
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                if given_up:
                    raise ValueError(given_up)
                if clip_size is not None:
                    text = row.text or ""
                    if not text.strip():
                        raise ValueError("the caption is empty")
                    if text.startswith(POINTER_BEGINNING):
                        raise ValueError("the caption is a pointer of Git LFS; run `git lfs pull` to get its file")
                    file = _name(row.audio)
                    clip = load_clip(open_file(folder, row.audio), start)
                    examples.columns["audio"][index], start = clip
                file = _name(row.image)
                opened = open_file(folder, row.image)
                if is_video(opened):
                    if start is None:
                        start = load_clip(open_file(folder, row.audio)).start
                    image = sharpest_frame(opened, start)
                else:
                    image = rgb_image(load_image(opened))
                if examples.images is not None:
                    examples.images[index] = resize_and_crop(image, examples.images.shape[1])
                if examples.vae_images is not None:
                    side = examples.vae_images.shape[1]
                    examples.vae_images[index] = resize_and_crop(image, side, Image.Resampling.LANCZOS)
            except StoreError:
                raise
            except Exception as error:  # whatever a decoder makes of a broken file, the row is left out and listed
                examples.bad[index] = {"row": row.row, "file": file, "reason": _reason(error)}
        if index not in examples.bad:
            examples.warnings.extend(f"row {row.row}: {file}: {_one_line(warning.message)}" for warning in caught)
    return examples


def _make_empty(rows: Sequence[ManifestRow], clip_size: int | None, vae_size: int | None) -> Examples:
    count = len(rows)
    columns, captions, images = {}, [""] * count, None
    if clip_size is not None:
        columns = {"audio": np.zeros((count, RATE), np.int16), "row": np.array([row.row for row in rows], np.int64)}
        if rows[0].class_index is not None:
            columns["class"] = np.array([row.class_index for row in rows], np.int32)
        captions = [row.text or "" for row in rows]
        images = np.zeros((count, clip_size, clip_size, 3), np.uint8)
    vae_images = None if vae_size is None else np.zeros((count, vae_size, vae_size, 3), np.uint8)
    return Examples(columns, captions, images, vae_images, bad={})


def _name(reference: Reference | None) -> str:
    return reference["name"] if isinstance(reference, dict) else reference or ""


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return _one_line(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {_one_line(error)}"


def _one_line(message) -> str:
    return " ".join(str(message).split())
