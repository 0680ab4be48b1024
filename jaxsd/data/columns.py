"""A data set is a folder of splits, a split a folder of columns: `dataset.json` and one `.npy` file a column.

All columns of a split have the same number of rows:

audio: int16 (n, 16000), one second of 16 kHz mono a row
text, image: float16 (n, projection), unit-norm CLIP embeddings of the captions and the pictures
tokens: int32 (n, 77), the captions' token ids
latents: float16 (n, height, width, channels), the pictures' mean VAE latents times the scaling factor

and what else is known of a row: `row` (int64), its place in the manifest, or `class` (int32), the index of its class
among `classes` in `dataset.json`, which may also have a caption a class, `class_captions`.
`dataset.json` names the models whose features these are. It comes last: a folder without it is unfinished.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxsd.files import read_json, write_json

SPLITS = ("train", "validation", "test")
ABOUT = "dataset.json"
MOVED = 256  # rows moved at a time

Kind = tuple[type[np.generic], tuple[int, ...]]  # the dtype of a column and the shape of a row


def write_columns(folder, columns: Mapping[str, np.ndarray], about: dict):
    """Write a split from arrays at hand."""
    columns = {name: np.asarray(column) for name, column in columns.items()}
    size = len(next(iter(columns.values())))
    create_columns(folder, size, {name: (column.dtype, column.shape[1:]) for name, column in columns.items()})
    write_rows(folder, 0, columns)
    finish_columns(folder, columns, size, np.arange(0), about)


def open_columns(folder) -> dict[str, np.ndarray]:
    """The columns of a split, memory-mapped.

    Raises FileNotFoundError or ValueError naming the folder or the column that does not fit.
    """
    folder = Path(folder)
    about = read_json(folder / ABOUT)
    columns = {}
    for name in about["columns"]:
        path = folder / f"{name}.npy"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing, though {folder / ABOUT} lists it")
        try:
            columns[name] = np.load(path, mmap_mode="r")
        except (ValueError, EOFError) as error:  # cut short, or no .npy file
            raise ValueError(f"{path} is damaged ({error})") from None
        if len(columns[name]) != about["size"]:
            raise ValueError(f"{path}: {len(columns[name])} rows, expected {about['size']}")
    return columns


def create_columns(folder, size: int, kinds: Mapping[str, Kind]):
    """Columns of `size` rows, all zeros so far, for `write_rows` to fill in any order."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, (dtype, shape) in kinds.items():
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (size, *shape))


def write_rows(folder, first: int, columns: Mapping[str, np.ndarray]):
    """Write the rows from `first` on of columns that are there; on return they are on the disk.

    Not through a memory map: several hosts may write rows that share a page of a file on a network file system.
    """
    for name, rows in columns.items():
        path = Path(folder) / f"{name}.npy"
        column = np.load(path, mmap_mode="r")
        if rows.dtype != column.dtype or rows.shape[1:] != column.shape[1:] or first + len(rows) > len(column):
            raise ValueError(f"{path}: {rows.dtype} {rows.shape} at row {first} does not fit {column.shape}")
        try:
            with path.open("r+b") as file:
                file.seek(column.offset + first * column.strides[0])
                file.write(np.ascontiguousarray(rows))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error


def finish_columns(folder, names, size: int, bad: np.ndarray, about: dict):
    """Take the rows at the places `bad` out of columns of `size` rows, then write `dataset.json`.

    The last good rows move to the bad ones' places, so that little is copied. This may be stopped anywhere and done
    again: what is moved also stays where it was until its file is cut.
    """
    folder = Path(folder)
    good = np.ones(size, bool)
    good[bad] = False
    left = int(good.sum())
    empty, full = np.flatnonzero(~good[:left]), left + np.flatnonzero(good[left:])
    for name in names:
        path = folder / f"{name}.npy"
        column = np.load(path, mmap_mode="r+")
        if len(column) != left:
            for first in range(0, len(empty), MOVED):
                column[empty[first : first + MOVED]] = column[full[first : first + MOVED]]
            column.flush()
            with path.open("r+b") as file:  # the header of any number of rows is of one length
                np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(column[:left]))
        os.truncate(path, column.offset + left * column.strides[0])
    write_json(folder / ABOUT, {"size": left, "columns": sorted(names), **about})
