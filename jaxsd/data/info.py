"""What a data set holds, and whether it is what it says."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich import box, filesize
from rich.table import Table

from jaxsd.data.build import PLAN
from jaxsd.data.columns import METADATA, SPLITS, check_digest, open_columns, read_metadata
from jaxsd.data.twins import describe_twins, find_twins
from jaxsd.runtime.cli import make_console
from jaxsd.runtime.progress import Progress

EXAMINED = 1024  # examples of a column that are examined together
UNIT_NORM = 2e-3  # how far from 1 the norm of an embedding may be in float16
NEEDED_COLUMNS = ("audio", "text", "image", "tokens")
MODEL_KEYS = (
    *("clip", "clip_revision", "variant", "tokenizer"),
    *("diffusion", "diffusion_revision", "vae", "vae_revision"),
    *("pooling", "eos_token_id"),
)


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
        _check_columns_are_there(path, columns[path])
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


def _check_columns_are_there(path: Path, columns: Mapping[str, np.ndarray]):
    if missing := [name for name in NEEDED_COLUMNS if name not in columns]:
        raise ValueError(f"{path} has no column {', '.join(missing)}")


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
    if path.stem in (digests := metadata.get("sha256", {})):
        check_digest(path, digest.hexdigest(), digests[path.stem])


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


def _check_rows(columns: Mapping[Path, Mapping[str, np.ndarray]]):
    rows = [split["row"] for split in columns.values() if "row" in split]
    if rows:
        values, counts = np.unique(np.concatenate(rows), return_counts=True)
        if (counts > 1).any():
            row = values[counts > 1][0]
            raise ValueError(
                f"row {row} of the manifest is there {counts.max()} times in {', '.join(map(str, columns))}"
            )
