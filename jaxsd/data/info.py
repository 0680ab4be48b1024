"""What a data set holds, and whether it is what it says."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich import box, filesize
from rich.table import Table

from jaxsd.audio import RATE
from jaxsd.data.build import PLAN
from jaxsd.data.columns import METADATA, SPLITS, open_columns, read_metadata
from jaxsd.data.twins import describe_twins, find_twins
from jaxsd.runtime.cli import make_console
from jaxsd.runtime.progress import Progress, counted

EXAMINED = 1024  # examples of a column that are examined together
UNIT_NORM = 2e-3  # how far from 1 the norm of an embedding may be in float16
NEEDED_COLUMNS = ("audio", "text", "image", "tokens")
MODEL_KEYS = (
    *("clip", "clip_revision", "variant", "tokenizer"),
    *("diffusion", "diffusion_revision", "vae", "vae_revision"),
    *("pooling", "eos_token_id"),
)
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


def info(folder):
    """Print what a data set, or one split of it, holds, examine every example, and count twins across the splits.

    Raises FileNotFoundError or ValueError that names the first file that is not as it should be.
    """
    folder = Path(folder)
    splits = _find_splits(folder)
    metadata = {path: read_metadata(path) for path in splits}
    columns = {path: open_columns(path) for path in splits}
    _print(folder, metadata, columns)
    _check_models(metadata)
    for path in splits:
        _check_layout(path, metadata[path], columns[path])
    total = sum(len(column) for split in columns.values() for column in split.values())
    with Progress("verify", total, unit="example") as progress:
        done = 0
        for path, split in columns.items():
            for name, column in split.items():
                for count in _check_column(path / f"{name}.npy", column, metadata[path]):
                    done += count
                    progress.advance(done)
    _check_rows(columns)
    by_name = {path.name: split for path, split in columns.items()}
    for name, split in by_name.items():
        if name != "train" and "train" in by_name:
            print(describe_twins(find_twins(split, by_name["train"], name), name))


def _find_splits(folder: Path) -> list[Path]:
    folders = (folder, *(folder / name for name in SPLITS))
    splits = [path for path in folders if (path / METADATA).is_file()]
    for path in folders:
        if (path / PLAN).is_file() and path not in splits:
            raise ValueError(f"{path} is not finished; the command that began it goes on with it")
    if not splits:
        raise FileNotFoundError(f"{folder}: no data set here (no {METADATA}, nor one in {', '.join(SPLITS)})")
    return splits


def _print(folder: Path, metadata: Mapping[Path, dict], columns: Mapping[Path, Mapping[str, np.ndarray]]):
    console = make_console()
    first, *_ = metadata.values()
    facts = {key: first.get(key) for key in ("source", "seed", *MODEL_KEYS)}
    if "classes" in first:
        facts["classes"] = len(first["classes"])
    table = Table(title=str(folder), title_justify="left", box=box.SIMPLE)
    for name in ("split", "examples", "skipped", "column", "dtype", "shape", "on disk"):
        table.add_column(name, justify="right" if name in ("examples", "skipped", "on disk") else "left")
    for path, split in columns.items():
        head = (path.name, f"{metadata[path]['size']:,}", f"{metadata[path].get('skipped', 0):,}")
        for name, column in split.items():
            shape = " x ".join(map(str, column.shape[1:])) or "1"
            size = filesize.decimal((path / f"{name}.npy").stat().st_size)
            table.add_row(*head, name, str(column.dtype), shape, size)
            head = ("", "", "")
    console.print(table)
    console.print(", ".join(f"{key} {value}" for key, value in facts.items() if value is not None), highlight=False)


def _check_models(metadata: Mapping[Path, dict]):
    (first, expected), *others = metadata.items()
    for path, found in others:
        for key in (*MODEL_KEYS, "classes"):
            if found.get(key) != expected.get(key):
                raise ValueError(
                    f"{path / METADATA}: {key} is {found.get(key)!r}, but {expected.get(key)!r} in {first / METADATA}"
                )


def _check_layout(path: Path, metadata: dict, columns: Mapping[str, np.ndarray]):
    missing = [name for name in NEEDED_COLUMNS if name not in columns]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}")
    for name in COLUMN_LAYOUTS.keys() & columns.keys():
        column, (dtype, axes) = columns[name], COLUMN_LAYOUTS[name]
        if (str(column.dtype), column.ndim) != (dtype, axes):
            raise ValueError(
                f"{path / f'{name}.npy'} is {column.dtype} of {column.ndim} axes; it must be {dtype} of {axes}"
            )
    if columns["audio"].shape[1] != RATE:
        raise ValueError(f"{path / 'audio.npy'} has {columns['audio'].shape[1]} samples a clip; it must have {RATE}")
    if columns["text"].shape != columns["image"].shape:
        raise ValueError(f"{path}: text is {columns['text'].shape} and image {columns['image'].shape}; they must agree")
    if "class" in columns and "classes" not in metadata:
        raise ValueError(f"{path} has a column class, though {path / METADATA} lists no classes")
    if "classes" in metadata and "class" not in columns:
        raise ValueError(f"{path} has no column class, though {path / METADATA} lists classes")
    if "rows" in metadata and metadata["size"] + metadata["skipped"] != metadata["rows"]:
        raise ValueError(
            f"{path / METADATA}: {counted(metadata['size'], 'example')} and {metadata['skipped']} skipped are not "
            f"{counted(metadata['rows'], 'row')} of the source"
        )


def _check_column(path: Path, column: np.ndarray, metadata: dict) -> Iterator[int]:
    """Examine a column, some examples at a time; yields how many."""
    audible = path.stem != "audio"
    digest = hashlib.sha256()
    for first in range(0, len(column), EXAMINED):
        examples = np.asarray(column[first : first + EXAMINED])
        digest.update(np.ascontiguousarray(examples).data)
        for fault, found in _faults(path.stem, examples, metadata):
            if found.any():
                raise ValueError(f"{path}: example {first + int(found.argmax())} {fault}")
        audible = audible or bool(examples.any())
        yield len(examples)
    if not audible:
        raise ValueError(f"{path}: every clip is silent")
    expected = metadata.get("sha256", {}).get(path.stem, digest.hexdigest())
    if digest.hexdigest() != expected:
        raise ValueError(
            f"{path}: its content is not what {METADATA} says (sha256 {expected[:12]}..., found "
            f"{digest.hexdigest()[:12]}...); make the data set again"
        )


def _faults(name: str, examples: np.ndarray, metadata: dict) -> Iterator[tuple[str, Any]]:
    """The faults that examples of a column may have, and which of them have it."""
    if np.issubdtype(examples.dtype, np.floating):
        yield "is not finite", ~np.isfinite(examples).reshape(len(examples), -1).all(axis=1)
    if name in ("text", "image"):
        norms = np.linalg.norm(examples.astype(np.float32), axis=1)
        yield "is not of norm 1", np.abs(norms - 1) > UNIT_NORM
    if name == "tokens" and "eos_token_id" in metadata:
        token = metadata["eos_token_id"]
        yield f"has no end-of-text token ({token})", (examples != token).all(axis=1)
    if name == "class":
        count = len(metadata["classes"])
        yield f"is not one of the {count} classes", (examples < 0) | (examples >= count)


def _check_rows(columns: Mapping[Path, Mapping[str, np.ndarray]]):
    rows = [split["row"] for split in columns.values() if "row" in split]
    if rows:
        values, counts = np.unique(np.concatenate(rows), return_counts=True)
        if (counts > 1).any():
            row = values[counts > 1][0]
            raise ValueError(
                f"row {row} of the manifest is there {counts.max()} times in {', '.join(map(str, columns))}"
            )
