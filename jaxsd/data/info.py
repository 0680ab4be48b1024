"""What a data set holds, and whether it is what it says."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from rich import box, filesize
from rich.console import Console
from rich.table import Table

from jaxsd.audio import RATE
from jaxsd.data.build import PLAN
from jaxsd.data.columns import ABOUT, SPLITS, open_columns
from jaxsd.files import read_json
from jaxsd.progress import Progress

BLOCK = 1024  # rows looked at together
UNIT_NORM = 2e-3  # how far from 1 the norm of an embedding may be in float16
NEEDED = ("audio", "text", "image", "tokens")
MODELS = ("clip", "clip_revision", "diffusion", "diffusion_revision", "pooling", "eos_token_id")
# dtype and number of axes; of other columns nothing is known
KINDS = {"audio": ("int16", 2), "text": ("float16", 2), "image": ("float16", 2), "tokens": ("int32", 2)}
KINDS |= {"latents": ("float16", 4), "row": ("int64", 1), "class": ("int32", 1)}


def info(folder):
    """Print what the data set in `folder`, or the one split there, holds, and look at every row of it.

    Raises FileNotFoundError or ValueError naming the first file that is not as it should be.
    """
    folder = Path(folder)
    splits = _splits(folder)
    abouts = {path: read_json(path / ABOUT) for path in splits}
    columns = {path: open_columns(path) for path in splits}
    _print(folder, abouts, columns)
    _check_models(abouts)
    for path in splits:
        _check_kinds(path, abouts[path], columns[path])
    total = sum(len(column) for split in columns.values() for column in split.values())
    with Progress("verify", total, unit="row") as progress:
        done = 0
        for path, split in columns.items():
            for name, column in split.items():
                for rows in _check_rows(path / f"{name}.npy", column, abouts[path]):
                    done += rows
                    progress.advance(done)
    _check_places(columns)


def _splits(folder: Path) -> list[Path]:
    places = (folder, *(folder / name for name in SPLITS))
    paths = [path for path in places if (path / ABOUT).is_file()]
    for path in places:
        if (path / PLAN).is_file() and path not in paths:
            raise ValueError(f"{path} is not finished; the command that began it goes on with it")
    if not paths:
        raise FileNotFoundError(f"{folder}: no data set here (no {ABOUT}, nor one in {', '.join(SPLITS)})")
    return paths


def _print(folder: Path, abouts: Mapping[Path, dict], columns: Mapping[Path, Mapping[str, np.ndarray]]):
    console = Console(width=None if sys.stdout.isatty() else 100)
    first, *_ = abouts.values()
    facts = {"source": first.get("source"), "seed": first.get("seed")} | {key: first.get(key) for key in MODELS}
    table = Table(title=str(folder), title_justify="left", box=box.SIMPLE)
    for name in ("split", "rows", "skipped", "column", "dtype", "shape of a row", "size on disk"):
        table.add_column(name, justify="right" if name in ("rows", "skipped", "size on disk") else "left")
    for path, split in columns.items():
        head = (path.name, f"{abouts[path]['size']:,}", f"{abouts[path].get('skipped', 0):,}")
        for name, column in split.items():
            shape = " x ".join(map(str, column.shape[1:])) or "1"
            size = filesize.decimal((path / f"{name}.npy").stat().st_size)
            table.add_row(*head, name, str(column.dtype), shape, size)
            head = ("", "", "")
    console.print(table)
    console.print(", ".join(f"{key} {value}" for key, value in facts.items() if value is not None), highlight=False)


def _check_models(abouts: Mapping[Path, dict]):
    (first, expected), *others = abouts.items()
    for path, about in others:
        for key in MODELS:
            if about.get(key) != expected.get(key):
                raise ValueError(
                    f"{path / ABOUT}: {key} is {about.get(key)!r}, but {expected.get(key)!r} in {first / ABOUT}"
                )


def _check_kinds(path: Path, about: dict, columns: Mapping[str, np.ndarray]):
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}")
    for name in KINDS.keys() & columns.keys():
        column, (dtype, axes) = columns[name], KINDS[name]
        if (str(column.dtype), column.ndim) != (dtype, axes):
            raise ValueError(
                f"{path / f'{name}.npy'} is {column.dtype} of {column.ndim} axes; it must be {dtype} of {axes}"
            )
    if columns["audio"].shape[1] != RATE:
        raise ValueError(f"{path / 'audio.npy'} has {columns['audio'].shape[1]} samples a row; it must have {RATE}")
    if columns["text"].shape != columns["image"].shape:
        raise ValueError(f"{path}: text is {columns['text'].shape} and image {columns['image'].shape}; they must agree")
    if "rows" in about and about["size"] + about["skipped"] != about["rows"]:
        raise ValueError(
            f"{path / ABOUT}: {about['size']} rows and {about['skipped']} skipped are not {about['rows']} of the source"
        )


def _check_rows(path: Path, column: np.ndarray, about: dict) -> Iterator[int]:
    """Look at the rows of a column, a block after the other; the number of rows of each."""
    heard = path.stem != "audio"
    for first in range(0, len(column), BLOCK):
        rows = np.asarray(column[first : first + BLOCK])
        for what, wrong in _wrong(path.stem, rows, about):
            if wrong.any():
                raise ValueError(f"{path}: row {first + int(wrong.argmax())} {what}")
        heard = heard or bool(rows.any())
        yield len(rows)
    if not heard:
        raise ValueError(f"{path}: every clip is silent")


def _wrong(name: str, rows: np.ndarray, about: dict) -> Iterator[tuple[str, np.ndarray]]:
    """What may be wrong with rows of a column, and which of them it is wrong with."""
    if np.issubdtype(rows.dtype, np.floating):
        yield "is not finite", ~np.isfinite(rows).reshape(len(rows), -1).all(axis=1)
    if name in ("text", "image"):
        norms = np.linalg.norm(rows.astype(np.float32), axis=1)
        yield "is not of norm 1", np.abs(norms - 1) > UNIT_NORM
    if name == "tokens" and "eos_token_id" in about:
        yield f"has no end-of-text token ({about['eos_token_id']})", (rows != about["eos_token_id"]).all(axis=1)


def _check_places(columns: Mapping[Path, Mapping[str, np.ndarray]]):
    places = [split["row"] for split in columns.values() if "row" in split]
    if places:
        values, counts = np.unique(np.concatenate(places), return_counts=True)
        if (counts > 1).any():
            row = values[counts > 1][0]
            raise ValueError(
                f"row {row} of the manifest is there {counts.max()} times in {', '.join(map(str, columns))}"
            )
