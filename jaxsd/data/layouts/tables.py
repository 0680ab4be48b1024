"""What the layouts share: files by kind, tables of captions, and manifests made of rows."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import csv, parquet

from jaxsd.data.columns import SPLITS
from jaxsd.data.manifest import COLUMN_TYPES, REQUIRED_COLUMNS, Manifest, check_quotes, open_path, read_json_lines
from jaxsd.data.stores import SourcePath, relative_files
from jaxsd.runtime.files import check_not_pointer

# The suffixes of each kind of file, the preferred first.
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".caf", ".aif", ".aiff", ".wma")
AUDIO_SUFFIXES += (".au", ".w64", ".amr", ".weba")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".heic", ".heif", ".avif", ".svg")
TEXT_COLUMNS = ("text", "caption", "captions", "sentence", "transcription", "label")
# What a folder or a file of a split begins with.
SPLIT_NAMES = {
    **{"train": "train", "training": "train"},
    **{"validation": "validation", "valid": "validation", "val": "validation", "dev": "validation"},
    **{"test": "test", "testing": "test", "eval": "test"},
}
DIGESTED_ROWS = 10_000


def list_files(folder: SourcePath) -> list[Path]:
    """All files below a folder, relative to it and sorted; hidden ones are left out.

    Raises OSError where a folder may not be read.
    """

    if not isinstance(folder, Path):
        return sorted(path for path in relative_files(folder) if not any(part.startswith(".") for part in path.parts))

    def refuse(error: OSError):
        raise error

    found = []
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(parent, name).relative_to(folder) for name in names if not name.startswith(".")]
    return sorted(found)


def split_of(name: str) -> str | None:
    """The split that the name of a folder or a file says, as `train-00000-of-00002.parquet` does."""
    word = name.lower().replace(".", "-").replace("_", "-").split("-")[0]
    return SPLIT_NAMES.get(word)


def read_table(path: SourcePath) -> pa.Table:
    """A table of a .csv, .tsv, .jsonl or .parquet file, all columns as text but for those of numbers in a manifest."""
    suffix = path.suffix.lower()
    check_not_pointer(path)
    try:
        if suffix == ".parquet":
            with path.open("rb") as file:
                return parquet.read_table(file)
        if suffix in (".jsonl", ".ndjson"):
            return read_json_lines(path, None)
        with path.open("rb") as file:
            names = csv.open_csv(file, parse_options=_delimited(suffix)).schema.names
        options = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.large_string()), strings_can_be_null=False)
        with path.open("rb") as file:
            table = csv.read_csv(file, parse_options=_delimited(suffix), convert_options=options)
        check_quotes(table, path)
        return table
    except (ValueError, pa.ArrowException) as error:
        raise ValueError(f"{path}: {error}") from None


TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


def _delimited(suffix: str) -> csv.ParseOptions:
    return csv.ParseOptions(delimiter="\t" if suffix == ".tsv" else ",", newlines_in_values=True)


def pick_column(table: pa.Table, names: Iterable[str], path: SourcePath, what: str) -> str:
    """The first of these columns that a table has. Raises ValueError where it has none."""
    names = tuple(names)
    found = next((name for name in names if name in table.column_names), None)
    if found is None:
        raise ValueError(
            f"{path} has no column with {what} ({', '.join(names)}); it has {', '.join(table.column_names)}"
        )
    return found


def make_manifest(
    source: SourcePath,
    rows: Mapping[str, list],
    open_file: Callable[[SourcePath, Any], Any] = open_path,
    stored: pa.DataType | None = None,
) -> Manifest:
    """The manifest of rows found in a source; columns of nothing but None are left out, but for the required ones.

    Args:
        source: the file or folder that they were found in.
        rows: the columns, by the names of a manifest.
        open_file: opens what `audio` and `image` refer to.
        stored: the type of `audio` and `image`, where they are not paths.
    """
    types = COLUMN_TYPES | ({"audio": stored, "image": stored} if stored else {})
    said = {name for name, values in rows.items() if any(value is not None for value in values)}
    kept = [name for name in types if name in REQUIRED_COLUMNS or name in said]
    count = len(rows["text"])
    if "split" in kept and any(name not in SPLITS for name in rows["split"]):
        kept.remove("split")  # some rows say none: it is drawn
    table = pa.table({name: pa.array(rows.get(name, [None] * count), types[name]) for name in kept})
    digest = hashlib.sha256(json.dumps(table.column_names).encode())
    for batch in table.to_batches(DIGESTED_ROWS):
        digest.update(json.dumps(batch.to_pylist()).encode())
    return Manifest(source, digest.hexdigest(), table, open_file)
