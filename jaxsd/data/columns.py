"""A data set is a folder of splits, a split a folder of columns: `dataset.json` and one `.npy` file a column.

All columns of a split hold the same examples, in the same order:

audio: int16 (n, 16000), one second of 16 kHz mono
text, image: float16 (n, projection), unit-norm CLIP embeddings of the captions and the images
tokens: int32 (n, 77), the captions' token ids
latents: float16 (n, height, width, channels), the images' mean VAE latents times the scaling factor

and what else is known of an example: `row` (int64), its row of the manifest, and `class` (int32), the index of its
class in the list `classes` of `dataset.json`, which may also have a caption a class, `class_captions`.

`dataset.json` names the models whose features these are. It comes last: a folder without it is unfinished.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from jaxsd.audio import RATE
from jaxsd.runtime.files import check_not_pointer, naming, read_json, write_json

SPLITS = ("train", "validation", "test")
METADATA = "dataset.json"
MOVED = 256  # examples moved at a time
DIGESTED = 1024  # examples digested at a time
VERIFIED = 2 * 2**30  # bytes of the largest column that is compared with its digest before it is used
# dtype and number of axes; of other columns nothing is known
COLUMN_LAYOUTS = {
    "audio": ("int16", 2),
    "text": ("float16", 2),
    "image": ("float16", 2),
    "tokens": ("int32", 2),
    "latents": ("float16", 4),
    "row": ("int64", 1),
    "class": ("int32", 1),
}


def _is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_name(value) -> bool:
    return value is None or isinstance(value, str)


def _is_list_of_names(value) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


# What the values in dataset.json must be that this package computes with.
METADATA_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "size": (_is_count, "a count"),
    "rows": (_is_count, "a count"),
    "skipped": (_is_count, "a count"),
    "seed": (_is_count, "a count"),
    "eos_token_id": (_is_count, "a token id"),
    **dict.fromkeys(("maker", "split", "clip", "tokenizer", "diffusion", "vae"), (_is_name, "a name")),
    **dict.fromkeys(("variant", "clip_revision", "diffusion_revision", "vae_revision"), (_is_name, "a name")),
    "columns": (_is_list_of_names, "a list of names"),
    "classes": (_is_list_of_names, "a list of names"),
    "class_captions": (_is_list_of_names, "a list of captions"),
    "sha256": (
        lambda value: isinstance(value, dict) and all(isinstance(digest, str) for digest in value.values()),
        "an object of strings",
    ),
}


class ColumnType(NamedTuple):
    """The dtype of a column, and the shape of what it holds of one example."""

    dtype: type[np.generic] | np.dtype
    shape: tuple[int, ...]


def write_columns(folder, columns: Mapping[str, np.ndarray], metadata: Mapping[str, Any]):
    """Write a split from arrays at hand. `metadata` goes to dataset.json."""
    columns = {name: np.asarray(column) for name, column in columns.items()}
    size = len(next(iter(columns.values())))
    create_columns(folder, size, {name: ColumnType(column.dtype, column.shape[1:]) for name, column in columns.items()})
    write_examples(folder, 0, columns)
    finish_columns(folder, columns, size, np.arange(0), metadata)


def read_metadata(folder) -> dict[str, Any]:
    """Read the dataset.json of a split. Raises FileNotFoundError or ValueError that names the file and the key."""
    path = Path(folder) / METADATA
    metadata = read_json(path)
    for key, (fits, allowed) in METADATA_VALUES.items():
        if (key in metadata or key in ("size", "columns")) and not fits(metadata.get(key)):
            raise ValueError(f"{path}: {key} is {str(metadata.get(key))[:80]!r}; it must be {allowed}")
    if "rows" in metadata and "skipped" not in metadata:
        raise ValueError(f"{path} has rows but no skipped")
    if "rows" in metadata and metadata["size"] + metadata["skipped"] != metadata["rows"]:
        raise ValueError(
            f"{path}: {metadata['size']} examples and {metadata['skipped']} skipped are not {metadata['rows']} rows of "
            "the source"
        )
    return metadata


def open_columns(folder) -> dict[str, np.ndarray]:
    """Open the columns of a split, memory-mapped.

    Raises FileNotFoundError or ValueError that names the folder or the column that does not fit.
    """
    folder = Path(folder)
    metadata = read_metadata(folder)
    columns = {}
    for name in metadata["columns"]:
        path = folder / f"{name}.npy"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing, though {folder / METADATA} lists it")
        check_not_pointer(path)
        try:
            columns[name] = np.load(path, mmap_mode="r")
        except Exception as error:  # NumPy evaluates the header, so a damaged one raises whatever that leads to
            raise ValueError(f"{path} is damaged ({error})") from None
        if len(columns[name]) != metadata["size"]:
            raise ValueError(f"{path}: {len(columns[name])} examples, expected {metadata['size']}")
    _check_layouts(folder, metadata, columns)
    return columns


def _check_layouts(folder: Path, metadata: Mapping[str, Any], columns: Mapping[str, np.ndarray]):
    """Raise ValueError where a column has not the dtype and shape that its name means."""
    for name in COLUMN_LAYOUTS.keys() & columns.keys():
        column, (dtype, axes) = columns[name], COLUMN_LAYOUTS[name]
        if (str(column.dtype), column.ndim) != (dtype, axes):
            raise ValueError(
                f"{folder / f'{name}.npy'} is {column.dtype} of {column.ndim} axes; it must be {dtype} of {axes}"
            )
    if "audio" in columns and (length := columns["audio"].shape[1]) != RATE:
        raise ValueError(f"{folder / 'audio.npy'} has {length} samples a clip; it must have {RATE}")
    text, image = (columns[name].shape if name in columns else None for name in ("text", "image"))
    if text and image and text != image:
        raise ValueError(f"{folder}: text is {text} and image {image}; they must agree")
    if ("class" in columns) != ("classes" in metadata):
        has = "lists classes, but there is no" if "classes" in metadata else "lists no classes, but there is a"
        raise ValueError(f"{folder / METADATA} {has} column class")
    if "class" in columns:
        count, labels = len(metadata["classes"]), np.asarray(columns["class"])
        if (wrong := (labels < 0) | (labels >= count)).any():
            raise ValueError(f"{folder / 'class.npy'}: example {wrong.argmax()} is not one of the {count} classes")
        if (captions := len(metadata.get("class_captions", ()))) not in (0, count):
            raise ValueError(f"{folder / METADATA} has {captions} class_captions, but {count} classes")


def verify_columns(folder, names: Iterable[str]):
    """Compare columns of a split with their digests, where dataset.json has them and the columns are not too large.

    Raises ValueError that names the column that is damaged or of another data set, and what `open_columns` raises.
    """
    folder = Path(folder)
    digests, columns = read_metadata(folder).get("sha256", {}), open_columns(folder)
    for name in names:
        if name in digests and columns[name].nbytes <= VERIFIED:
            check_digest(folder / f"{name}.npy", digest_column(columns[name]), digests[name])


def check_digest(path: Path, found: str, expected: str):
    """Raise ValueError where the digest of a column is another than that in dataset.json."""
    if found != expected:
        raise ValueError(
            f"{path}: its content is not what {METADATA} says (sha256 {expected[:12]}..., found {found[:12]}...); make "
            "the data set again"
        )


def create_columns(folder, size: int, types: Mapping[str, ColumnType]):
    """Create columns of `size` examples, all zeros, for `write_examples` to fill in any order."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, (dtype, shape) in types.items():
        with naming(folder / f"{name}.npy"):
            np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (size, *shape))


def write_examples(folder, first: int, columns: Mapping[str, np.ndarray]):
    """Write the examples from index `first` on into columns that exist; on return they are on the disk.

    Not through a memory map: several hosts may write examples that share a page of a file on a network file system.
    """
    for name, examples in columns.items():
        path = Path(folder) / f"{name}.npy"
        column = np.load(path, mmap_mode="r")
        fits = examples.dtype == column.dtype and examples.shape[1:] == column.shape[1:]
        if not fits or first + len(examples) > len(column):
            raise ValueError(f"{path}: {examples.dtype} {examples.shape} at index {first} does not fit {column.shape}")
        with naming(path), path.open("r+b") as file:
            file.seek(column.offset + first * column.strides[0])
            file.write(np.ascontiguousarray(examples).data)
            file.flush()
            os.fsync(file.fileno())


def digest_column(column: np.ndarray, first: int = 0, last: int | None = None) -> str:
    """The SHA-256 of what a column holds, of the examples from index `first` to before `last`."""
    digest = hashlib.sha256()
    last = len(column) if last is None else last
    for begin in range(first, last, DIGESTED):
        digest.update(np.ascontiguousarray(column[begin : min(begin + DIGESTED, last)]).data)
    return digest.hexdigest()


def identify(metadata: Mapping[str, Any]) -> str | None:
    """What a split is, wherever it is: a SHA-256 of its columns' digests. None where its dataset.json has none."""
    digests = metadata.get("sha256")
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest() if digests else None


def finish_columns(
    folder, names: Iterable[str], size: int, bad: Int[np.ndarray, " count"], metadata: Mapping[str, Any]
):
    """Take bad examples out of columns of `size` examples, then write `dataset.json`.

    The last good examples move to where the bad ones are, so that little is copied. This may be stopped anywhere and
    done again: what is moved also stays where it was until its file is cut.

    Args:
        folder: the split.
        names: of its columns.
        size: how many examples the columns hold, the bad ones too.
        bad: the indices of the bad examples.
        metadata: goes to dataset.json.
    """
    folder, digests = Path(folder), {}
    good = np.ones(size, bool)
    good[bad] = False
    left = int(good.sum())
    free, last = np.flatnonzero(~good[:left]), left + np.flatnonzero(good[left:])
    for name in names:
        path = folder / f"{name}.npy"
        column = np.load(path, mmap_mode="r+")
        if len(column) != left:
            for first in range(0, len(free), MOVED):
                column[free[first : first + MOVED]] = column[last[first : first + MOVED]]
            column.flush()
            with path.open("r+b") as file:  # the header of any number of examples is of one length
                np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(column[:left]))
        os.truncate(path, column.offset + left * column.strides[0])
        digests[name] = digest_column(np.load(path, mmap_mode="r"))
    write_json(folder / METADATA, {"size": left, "columns": sorted(digests), "sha256": digests, **metadata})


def add_columns(folder, names: Iterable[str], metadata: Mapping[str, Any]):
    """Add columns, which are filled, to a split that is finished; `metadata` too goes to its dataset.json."""
    folder = Path(folder)
    old = read_metadata(folder)
    digests = {name: digest_column(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in names}
    columns = sorted({*old["columns"], *digests})
    new = {"columns": columns, "sha256": {**old.get("sha256", {}), **digests}, **metadata}
    write_json(folder / METADATA, {**old, **new})
