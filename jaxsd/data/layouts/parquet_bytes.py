"""The layout `parquet`: Parquet files with the sounds and the images in them, as Hugging Face's datasets writes them.

The columns `audio` and `image` are structs of `bytes` and `path`, or bytes alone. Where `bytes` is null, `path` is a
file relative to the folder. Nothing is unpacked: a row's bytes are read when the row is decoded.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from jaxsd.data.layouts.layout import Layout
from jaxsd.data.layouts.tables import TEXT_COLUMNS, list_files, make_manifest, pick_column, split_of
from jaxsd.data.manifest import Manifest, open_path
from jaxsd.data.stores import SourcePath
from jaxsd.runtime.files import StoredFile

# Where a file lies: the row group of the Parquet file and the row in it.
PARQUET_CELL = pa.struct(
    {"name": pa.string(), "file": pa.string(), "column": pa.string(), "row_group": pa.int32(), "row": pa.int32()}
)


def is_parquet_bytes(source: SourcePath) -> bool:
    files = _parquet_files(source)
    return bool(files) and _holds_bytes(_folder_of(source) / files[0])


def _folder_of(source: SourcePath) -> SourcePath:
    return source if source.is_dir() else source.parent


def _parquet_files(source: SourcePath) -> list[Path]:
    """Relative to the folder."""
    if source.is_file():
        return [Path(source.name)] if source.suffix.lower() == ".parquet" else []
    return [path for path in list_files(source) if path.suffix == ".parquet" and path.name != "metadata.parquet"]


def _holds_bytes(path: SourcePath) -> bool:
    try:
        with path.open("rb") as file:
            schema = parquet.read_schema(file)
    except (OSError, pa.ArrowException):
        return False
    return all(name in schema.names and _is_bytes(schema.field(name).type) for name in ("audio", "image"))


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def read_parquet_bytes(source: SourcePath) -> Manifest:
    """The rows of all files, in the order of their paths. Raises ValueError that names the file that does not fit."""
    folder = _folder_of(source)
    rows = {name: [] for name in ("audio", "image", "text", "split", "start", "group")}
    for inside in _parquet_files(source):
        path, name = folder / inside, str(inside)
        if not _holds_bytes(path):
            raise ValueError(f"{path} has no columns audio and image with the bytes of files, or is no Parquet file")
        file = parquet.ParquetFile(path.open("rb"))
        text = pick_column(file.schema_arrow.empty_table(), TEXT_COLUMNS, path, "captions")
        others = [name for name in ("start", "group") if name in file.schema_arrow.names]
        said = split_of(inside.name) or split_of(inside.parent.name)
        for group in range(file.num_row_groups):
            small = file.read_row_group(group, [text, *others])
            rows["text"] += [None if caption is None else str(caption) for caption in small[text].to_pylist()]
            for other in ("start", "group"):
                values = small[other].to_pylist() if other in others else [None] * len(small)
                rows[other] += [x if x is None or other == "start" else str(x) for x in values]
            rows["split"] += [said] * len(small)
            for kind in ("audio", "image"):
                rows[kind] += [
                    {"name": f"{name}[{group}:{row}].{kind}", "file": name, "column": kind}
                    | {"row_group": group, "row": row}
                    for row in range(len(small))
                ]
    return make_manifest(source, rows, open_parquet_cell, PARQUET_CELL)


def open_parquet_cell(folder: SourcePath, reference: dict[str, Any]) -> Path | StoredFile:
    """The bytes of a cell, or the file that it names. Raises ValueError where it has neither."""
    column = _read_column(folder / reference["file"], reference["row_group"], reference["column"])
    cell = column[reference["row"]].as_py()
    data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    if data is None and path:
        return open_path(folder, path)
    if data is None:
        raise ValueError(f"{reference['name']} is null")
    return StoredFile(f"{reference['name']} ({path})" if path else reference["name"], data)


@lru_cache(maxsize=2)  # the sounds and the images of the row group that a worker is in
def _read_column(path: SourcePath, row_group: int, column: str) -> pa.ChunkedArray:
    with path.open("rb") as file:
        return parquet.ParquetFile(file).read_row_group(row_group, [column])[column]


PARQUET_BYTES = Layout("parquet", is_parquet_bytes, read_parquet_bytes)
