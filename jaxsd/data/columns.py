"""A data set is a folder: `dataset.json` and one `.npy` file a column, all with the same number of rows.

audio: int16 (n, 16000), one second of 16 kHz mono a row
text, image: float16 (n, projection), unit-norm CLIP embeddings of the captions and the pictures
tokens: int32 (n, 77), the captions' token ids
latents: float16 (n, height, width, channels), the pictures' mean VAE latents times the scaling factor
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxsd.config import read_json, write_json

ABOUT = "dataset.json"


def write_columns(folder, columns: Mapping[str, np.ndarray], about: dict):
    """Write a data set. `dataset.json` comes last: a folder without it is unfinished."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, column in columns.items():
        np.save(folder / f"{name}.npy", column)
    size = len(next(iter(columns.values())))
    write_json(folder / ABOUT, {"size": size, "columns": sorted(columns), **about})


def open_columns(folder) -> dict[str, np.ndarray]:
    """The columns of a data set, memory-mapped.

    Raises FileNotFoundError or ValueError naming the folder or the column that does not fit.
    """
    folder = Path(folder)
    about = read_json(folder / ABOUT)
    columns = {}
    for name in about["columns"]:
        path = folder / f"{name}.npy"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing, though {folder / 'dataset.json'} lists it")
        columns[name] = np.load(path, mmap_mode="r")
        if len(columns[name]) != about["size"]:
            raise ValueError(f"{path}: {len(columns[name])} rows, expected {about['size']}")
    return columns
