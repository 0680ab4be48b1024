"""A list of sounds, pictures and captions in a CSV, JSON Lines or Parquet file, and its split into data sets."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import compute, csv, json, parquet

from jaxsd.data.columns import SPLITS
from jaxsd.data.decode import Entry

NEEDED = {"audio": pa.string(), "image": pa.string(), "text": pa.string()}
OPTIONAL = {"start": pa.float64(), "split": pa.string(), "group": pa.string()}
TYPES = NEEDED | OPTIONAL
# Of 2,240,231 triples, the paper (arXiv 2509.09717) keeps 3,774 for validation and 23,524 for testing.
VALIDATION_SHARE, TEST_SHARE = 3_774 / 2_240_231, 23_524 / 2_240_231


@dataclass(frozen=True)
class Manifest:
    """The rows of the file at `path`, which its paths are relative to. `digest` is the file's SHA-256."""

    path: Path
    digest: str
    table: pa.Table

    def __len__(self) -> int:
        return len(self.table)

    def entries(self, rows: np.ndarray) -> list[Entry]:
        """The rows of these numbers, the first row being 0."""
        table = self.table.take(rows)
        columns = (
            table[name].to_pylist() if name in table.column_names else [None] * len(rows)
            for name in ("audio", "image", "text", "start")
        )
        return [Entry(*entry) for entry in zip(rows.tolist(), *columns, strict=True)]


def read_manifest(path) -> Manifest:
    """Read a .csv, .jsonl or .parquet file with columns audio, image and text; start, split and group may be there too.

    Raises FileNotFoundError, or ValueError naming the file and what does not fit.
    """
    path = Path(path)
    readers = {".csv": _read_csv, ".jsonl": _read_json, ".ndjson": _read_json, ".parquet": parquet.read_table}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path} has the suffix {path.suffix!r}; allowed: {', '.join(readers)}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        table = readers[path.suffix.lower()](path)
        missing = [name for name in NEEDED if name not in table.column_names]
        if missing:
            raise ValueError(f"has no column {', '.join(missing)}; there are {', '.join(table.column_names)}")
        table = table.select([name for name in TYPES if name in table.column_names])
        table = table.cast(pa.schema([(name, TYPES[name]) for name in table.column_names]))
    except (ValueError, pa.ArrowException) as error:
        raise ValueError(f"{path}: {error}") from None
    if not len(table):
        raise ValueError(f"{path} has no rows")
    with path.open("rb") as file:
        return Manifest(path, hashlib.file_digest(file, "sha256").hexdigest(), table.combine_chunks())


def _read_csv(path: Path) -> pa.Table:
    options = csv.ConvertOptions(column_types=TYPES)
    return csv.read_csv(path, parse_options=csv.ParseOptions(newlines_in_values=True), convert_options=options)


def _read_json(path: Path) -> pa.Table:
    fixed = pa.schema([(name, kind) for name, kind in TYPES.items() if name != "group"])  # a group may be a number
    table = json.read_json(path, parse_options=json.ParseOptions(explicit_schema=fixed))
    # A name of the schema that no row has comes as a column of nulls.
    return table.select([name for name in table.column_names if table[name].null_count < len(table)])


def draw_splits(manifest: Manifest, validation: str | None, test: str | None, seed: int) -> dict[str, np.ndarray]:
    """The row numbers of each split, ascending, by the manifest's `split` column or else drawn by `seed`.

    `validation` and `test` are numbers of rows ("500") or shares of them ("0.05"); by default the paper's shares.
    Groups (rows of one value in the column `group`; without one every row is its own) are shuffled: the first go to
    validation until it has its number of rows, the next to test, the rest is for training. No group straddles splits.
    A broken row counts here: which rows are broken does not change where the others go. Splits without rows are left
    out. Raises ValueError where a value does not fit.
    """
    if "split" in manifest.table.column_names:
        if validation is not None or test is not None:
            raise ValueError(f"{manifest.path} has a column split, which decides; leave out --validation and --test")
        splits = _named_splits(manifest)
    else:
        splits = _drawn_splits(manifest, validation, test, seed)
    if not len(splits["train"]):
        raise ValueError(f"{manifest.path}: no rows of {len(manifest)} are left for training")
    return {name: rows for name, rows in splits.items() if len(rows)}


def _named_splits(manifest: Manifest) -> dict[str, np.ndarray]:
    names = manifest.table["split"]
    place = compute.fill_null(compute.index_in(names, pa.array(SPLITS)), -1).to_numpy()
    if (place < 0).any():
        row = int(np.argmin(place))
        raise ValueError(f"{manifest.path}: row {row} has the split {names[row].as_py()!r}; allowed: {SPLITS}")
    return {name: np.flatnonzero(place == index) for index, name in enumerate(SPLITS)}


def _drawn_splits(manifest: Manifest, validation, test, seed: int) -> dict[str, np.ndarray]:
    size = len(manifest)
    group = np.arange(size)
    if "group" in manifest.table.column_names:
        values = manifest.table["group"].fill_null("")
        row = compute.index(values, "").as_py()
        if row >= 0:
            raise ValueError(f"{manifest.path}: row {row} has no group")
        group = values.combine_chunks().dictionary_encode().indices.to_numpy()
    sizes = np.bincount(group)
    order = np.random.default_rng(seed).permutation(len(sizes))
    ends = np.cumsum(sizes[order])  # rows in the first 1, 2, ... groups
    wanted = (_count("validation", validation, VALIDATION_SHARE, size), _count("test", test, TEST_SHARE, size))
    place = np.zeros(len(sizes), int)  # of a group; SPLITS[0] is train
    first = 0
    for index, rows in enumerate(wanted, start=1):
        before = ends[first - 1] if first else 0
        last = first + int(np.searchsorted(ends[first:], before + rows)) + 1 if rows else first
        place[order[first:last]] = index
        first = min(last, len(sizes))
    return {name: np.flatnonzero(place[group] == index) for index, name in enumerate(SPLITS)}


def _count(name: str, text: str | None, default: float, size: int) -> int:
    """Rows of a split, from its number or its share of `size` (rounded up)."""
    try:
        count = int(text) if text and text.isdecimal() else math.ceil(size * float(text or default))
        if not 0 <= count < size:
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(f"--{name} is {text!r}; allowed: 0 to {size - 1} rows, or a share below 1, as 0.05") from None
    return count
