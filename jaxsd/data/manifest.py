"""A list of sounds, images and captions in a CSV, JSON Lines or Parquet file, and its split into data sets."""

import codecs
import csv as standard_csv
import hashlib
import json
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int
from pyarrow import csv, parquet

from jaxsd.data.columns import SPLITS
from jaxsd.data.stores import SourcePath, fetch_file, locate, read_range
from jaxsd.runtime.files import StoredFile, check_not_pointer

# Large strings: all captions together may take more than 2 GiB.
REQUIRED_COLUMNS = {"audio": pa.large_string(), "image": pa.large_string(), "text": pa.large_string()}
OPTIONAL_COLUMNS = {
    "start": pa.float64(),
    "split": pa.large_string(),
    "group": pa.large_string(),
    "class": pa.large_string(),
}
COLUMN_TYPES = REQUIRED_COLUMNS | OPTIONAL_COLUMNS
STRINGS = (pa.string(), pa.large_string())
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
LONGEST_ROW = 64 * 2**20  # bytes of a row of a CSV file
# Of 2,240,231 triples, the paper (arXiv 2509.09717) keeps 3,774 for validation and 23,524 for testing.
VALIDATION_SHARE, TEST_SHARE = 3_774 / 2_240_231, 23_524 / 2_240_231
# Of a smaller manifest, this share is kept for each of the two, as far as MOST_HELD_OUT rows.
SMALL_SHARE, MOST_HELD_OUT = 1 / 8, 500


# What a row says of a file: a path or, in a layout that keeps files inside others, where it lies; "name" is its name.
Reference = str | dict[str, Any]


class ManifestRow(NamedTuple):
    """A row of a manifest. What the file leaves out is None. `start` is in seconds."""

    row: int
    audio: Reference | None
    image: Reference | None
    text: str | None
    start: float | None
    class_index: int | None


def open_path(folder: SourcePath, name: str | None) -> Path | StoredFile:
    """The file that a manifest names."""
    if not name:
        raise ValueError("no file is named")
    return fetch_file(locate(name) if "://" in name else folder / name)


@dataclass(frozen=True)
class Manifest:
    """The rows of the data set at `path`, a file or a folder.

    digest: the SHA-256 of the file, or of what was found in the folder. open_file: `open_file(folder, reference)` is
    what the decoders read, where a row of the table has that reference.
    """

    path: SourcePath
    digest: str
    table: pa.Table
    open_file: Callable[[SourcePath, Any], Path | StoredFile] = open_path

    @property
    def folder(self) -> SourcePath:
        """What the references are relative to."""
        return self.path if self.path.is_dir() else self.path.parent

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def classes(self) -> list[str]:
        """The names in the column `class`, sorted; [] where there is no such column."""
        if "class" not in self.table.column_names:
            return []
        return sorted(self.table["class"].unique().to_pylist())

    def rows(self, numbers: Int[np.ndarray, " rows"]) -> list[ManifestRow]:
        """The rows of these numbers, the first row being 0."""
        table = self.table.take(numbers)
        columns = {
            name: table[name].to_pylist() if name in table.column_names else [None] * len(numbers)
            for name in ("audio", "image", "text", "start", "class")
        }
        index: dict[str | None, int] = {name: index for index, name in enumerate(self.classes)}
        columns["class"] = [index.get(name) for name in columns["class"]]
        return [ManifestRow(*row) for row in zip(numbers.tolist(), *columns.values(), strict=True)]


def read_manifest(path) -> Manifest:
    """Read a manifest with the columns audio, image and text; start, split, group and class may be there too.

    Other columns are ignored. Raises FileNotFoundError, or ValueError that names the file and what does not fit.
    """
    path = locate(path)
    if path.suffix.lower() not in READERS:
        raise ValueError(f"{path} has the suffix {path.suffix!r}; allowed: {', '.join(READERS)}")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    check_not_pointer(path)
    try:
        table = READERS[path.suffix.lower()](path)
        missing = [name for name in REQUIRED_COLUMNS if name not in table.column_names]
        if missing:
            semicolons = "; commas must be between the columns" * any(";" in name for name in table.column_names)
            raise ValueError(
                f"has no column {', '.join(missing)}; there are {', '.join(table.column_names)}{semicolons}"
            )
        twice = [name for name in COLUMN_TYPES if table.column_names.count(name) > 1]
        if twice:
            raise ValueError(f"has more than one column {', '.join(twice)}")
        table = table.select([name for name in COLUMN_TYPES if name in table.column_names])
        table = table.cast(pa.schema([(name, COLUMN_TYPES[name]) for name in table.column_names]))
        for name in ("group", "class"):
            if name in table.column_names:
                _check_filled(table[name], name)
    except (ValueError, pa.ArrowException) as error:
        raise ValueError(f"{path}: {error}") from None
    if not len(table):
        raise ValueError(f"{path} has no rows")
    return Manifest(path, hashlib.sha256(read_range(path)).hexdigest(), table)


def _check_filled(column: pa.ChunkedArray, name: str):
    row = column.fill_null("").index("").as_py()
    if row >= 0:
        raise ValueError(f"row {row} has no {name}")


def _read_csv(path: SourcePath) -> pa.Table:
    try:
        with path.open("rb") as file:
            table = csv.read_csv(
                file,
                read_options=csv.ReadOptions(block_size=LONGEST_ROW),
                parse_options=csv.ParseOptions(newlines_in_values=True),
                convert_options=csv.ConvertOptions(column_types=COLUMN_TYPES),
            )
    except pa.ArrowException as error:
        raise ValueError(_explain_csv(path) or str(error)) from None
    check_quotes(table, path)
    return table


def _explain_csv(path: SourcePath) -> str | None:
    """What spreadsheets write in place of UTF-8 and commas, in a CSV file that Arrow does not read."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                if line.startswith(UTF_16) or b"\0" in line:
                    return "it is in UTF-16; save it as UTF-8"
                if line.removeprefix(codecs.BOM_UTF8).lower().startswith(b"sep="):
                    return "it begins with a line sep=, which spreadsheets alone read; remove that line"
                if b"," not in line and (b";" in line or b"\t" in line):
                    return "commas must be between the columns, not semicolons or tabs"
            try:
                line.decode()
            except UnicodeDecodeError:
                return f"line {number} is not UTF-8; save the file as UTF-8"
    return None


def check_quotes(table: pa.Table, path: SourcePath):
    """Raise ValueError where a quote of the CSV file that a table is of does not end, or ends within a value.

    Arrow takes all that follows for one value, rows included, up to the next quote. Values of several lines, which are
    well quoted, raise a warning: a quote that should not be there and one in a later row may have made one of two rows.
    """
    line_end = pc.MatchSubstringOptions("\n")
    texts = [column for column in table.columns if column.type in STRINGS]
    found = [pc.call_function("match_substring", [column], line_end).index(True).as_py() for column in texts]
    spans = [row for row in found if row >= 0]
    if not spans:
        return
    standard_csv.field_size_limit(LONGEST_ROW)
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = standard_csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
        try:
            for _ in reader:
                pass
        except standard_csv.Error as error:
            raise ValueError(f"row {min(spans)} has a quote that does not end as it should ({error})") from None
    warnings.warn(f"{path}: row {min(spans)} has a value of several lines, within quotes", stacklevel=2)


def _read_json_lines(path: SourcePath) -> pa.Table:
    return read_json_lines(path, COLUMN_TYPES)


def read_json_lines(path: SourcePath, types: Mapping[str, pa.DataType] | None) -> pa.Table:
    """A table of JSON Lines, of the columns of `types`; None: of all columns, each as JSON has it.

    Raises ValueError that names the line.
    """
    columns: dict[str, list] = {}
    count = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line, object_pairs_hook=_to_dict)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {number} is not valid JSON ({error})") from None
            if not isinstance(row, dict):
                raise ValueError(f"line {number} holds a JSON {type(row).__name__}, not an object")
            for name, value in row.items():
                if types is None or name in types:
                    column = columns.setdefault(name, [])
                    column.extend([None] * (count - len(column)))
                    column.append(_json_value(number, name, value) if types else value)
            count += 1
    for column in columns.values():
        column.extend([None] * (count - len(column)))
    return pa.table({name: pa.array(column, types[name] if types else None) for name, column in columns.items()})


def _to_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {next(name for name in row if names.count(name) > 1)!r} more than once")
    return row


def _json_value(line: int, name: str, value):
    """A value as its column takes it: a group, a class or a split may be a number."""
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name == "start":
        if not number:
            raise ValueError(f"line {line}: start is {json.dumps(value)[:80]}; it must be a number")
        return value
    if not (isinstance(value, str) or number and name in OPTIONAL_COLUMNS):
        raise ValueError(f"line {line}: {name} is {json.dumps(value)[:80]}; it must be a string")
    try:
        str(value).encode()
    except UnicodeEncodeError:
        raise ValueError(f"line {line}: {name} is {json.dumps(value)[:80]}, which is not Unicode") from None
    return str(value)


def _read_parquet(path: SourcePath) -> pa.Table:
    with path.open("rb") as opened:
        file = parquet.ParquetFile(opened)
        return file.read([name for name in file.schema_arrow.names if name in COLUMN_TYPES])


# How a manifest is read, by the suffix of its name: path -> table with at least the columns of COLUMN_TYPES it has.
READERS: dict[str, Callable[[SourcePath], pa.Table]] = {
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".parquet": _read_parquet,
}


def draw_splits(
    manifest: Manifest, validation: str | None, test: str | None, seed: int
) -> dict[str, Int[np.ndarray, " rows"]]:
    """Decide which rows of a manifest go to which split: by its column `split`, or else drawn by `seed`.

    The groups (rows of one value in the column `group`; without one every row is its own) are shuffled: the first go to
    validation until it has its number of rows, the next to test, the rest is for training. No group straddles splits.
    A broken row counts here: which rows are broken does not change where the others go.

    Args:
        manifest: the rows.
        validation, test: numbers of rows ("500") or shares of them ("0.05", rounded up). By default an eighth, but no
            more than 500 rows, or the paper's share where that is more.
        seed: of the shuffling.

    Returns:
        The row numbers of each split, ascending; splits without rows are left out.

    Raises:
        ValueError: a value does not fit, or no rows are left for training.
    """
    if "split" in manifest.table.column_names:
        if validation is not None or test is not None:
            raise ValueError(f"{manifest.path} has a column split, which decides; leave out --validation and --test")
        splits = _read_splits(manifest)
    else:
        splits = _draw_splits(manifest, validation, test, seed)
    if not len(splits["train"]):
        hint = "" if "split" in manifest.table.column_names else "; --validation 0 --test 0 leave all"
        raise ValueError(f"{manifest.path}: no rows of {len(manifest)} are left for training{hint}")
    return {name: rows for name, rows in splits.items() if len(rows)}


def _read_splits(manifest: Manifest) -> dict[str, np.ndarray]:
    names = manifest.table["split"].to_pylist()
    split = np.array([SPLITS.index(name) if name in SPLITS else -1 for name in names])
    if (split < 0).any():
        row = int(np.argmin(split))
        allowed = ", ".join(SPLITS)
        raise ValueError(f"{manifest.path}: row {row} has the split {names[row]!r}; allowed: {allowed}")
    return {name: np.flatnonzero(split == index) for index, name in enumerate(SPLITS)}


def _draw_splits(manifest: Manifest, validation, test, seed: int) -> dict[str, np.ndarray]:
    size = len(manifest)
    group = np.arange(size)
    if "group" in manifest.table.column_names:
        group = manifest.table["group"].combine_chunks().dictionary_encode().indices.to_numpy()
    sizes = np.bincount(group)
    order = np.random.default_rng(seed).permutation(len(sizes))
    ends = np.cumsum(sizes[order])  # rows in the first 1, 2, ... groups
    counts = (
        _held_out_count("validation", validation, VALIDATION_SHARE, size),
        _held_out_count("test", test, TEST_SHARE, size),
    )
    split_of_group = np.zeros(len(sizes), int)  # SPLITS[0] is train
    first = 0
    for index, count in enumerate(counts, start=1):
        before = ends[first - 1] if first else 0
        last = first + int(np.searchsorted(ends[first:], before + count)) + 1 if count else first
        split_of_group[order[first:last]] = index
        first = min(last, len(sizes))
    return {name: np.flatnonzero(split_of_group[group] == index) for index, name in enumerate(SPLITS)}


def _held_out_count(name: str, text: str | None, paper_share: float, size: int) -> int:
    """The rows of a split, by its number or its share of `size`."""
    if text is None:
        small = min(MOST_HELD_OUT, math.ceil(size * SMALL_SHARE)) if size >= len(SPLITS) else 0
        return max(small, math.ceil(size * paper_share) if small else 0)
    try:
        count = int(text) if text.isdecimal() else math.ceil(size * float(text))
        if not 0 <= count < size:
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError(f"--{name} is {text!r}; allowed: 0 to {size - 1} rows, or a share below 1, as 0.05") from None
    return count
