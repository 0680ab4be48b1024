"""The layout `audiofolder`: Hugging Face's AudioFolder and ImageFolder, with a `metadata.csv|jsonl|parquet`.

The columns are `audio_file_name` and `image_file_name`, or `file_name` for one of the two and then the other is the
file of the same name; and the caption. The folders `train`, `validation` and `test` (or `data/train` and so on) may
each have their own metadata, and then say the split.
"""

from pathlib import Path

from jaxsd.data.layouts.layout import Layout
from jaxsd.data.layouts.tables import (
    AUDIO_SUFFIXES,
    IMAGE_SUFFIXES,
    TEXT_COLUMNS,
    list_files,
    make_manifest,
    pick_column,
    read_table,
    split_of,
)
from jaxsd.data.manifest import Manifest
from jaxsd.data.stores import SourcePath

METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FILE_COLUMNS = {
    "audio": ("audio_file_name", "audio_file", "audio"),
    "image": ("image_file_name", "image_file", "image"),
}


def is_audiofolder(source: SourcePath) -> bool:
    return source.is_dir() and bool(_metadata_files(source))


def _metadata_files(source: SourcePath) -> list[Path]:
    """Relative to the source: in the folder itself, in one in it, or in one in `data`."""
    found = [path for path in list_files(source) if path.name in METADATA_FILES]
    return [path for path in found if len(path.parts) <= 2 or len(path.parts) == 3 and path.parts[0] == "data"]


def read_audiofolder(source: SourcePath) -> Manifest:
    """The rows of all metadata files, in the order of their paths. Raises ValueError where a column is missing."""
    rows = {name: [] for name in ("audio", "image", "text", "split", "start", "group", "class")}
    for name in _metadata_files(source):
        path, folder = source / name, name.parent
        table = read_table(path)
        files = _file_columns(table, path)
        text = table[pick_column(table, TEXT_COLUMNS, path, "captions")].to_pylist()
        rows["text"] += [None if caption is None else str(caption) for caption in text]
        for kind in ("audio", "image"):
            rows[kind] += [str(folder / file) if file else None for file in files[kind]]
        for column in ("start", "group", "class"):
            values = table[column].to_pylist() if column in table.column_names else [None] * len(table)
            try:
                rows[column] += [None if x in (None, "") else float(x) if column == "start" else str(x) for x in values]
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}: a start is not a number ({error})") from None
        rows["split"] += [split_of(folder.name)] * len(table)
    return make_manifest(source, rows)


def _file_columns(table, path: SourcePath) -> dict[str, list]:
    """The names of the sounds and of the images."""
    found = {
        kind: table[next(name for name in names if name in table.column_names)].to_pylist()
        for kind, names in FILE_COLUMNS.items()
        if any(name in table.column_names for name in names)
    }
    if len(found) == 2:
        return found
    names = table[pick_column(table, ("file_name",), path, "names of files")].to_pylist()
    beside = {(str(one.with_suffix("")), one.suffix.lower()): str(one) for one in list_files(path.parent)}

    def twin(name: str | None, suffixes) -> str | None:
        if name is None or Path(name).suffix.lower() in suffixes:
            return name
        stem = str(Path(name).with_suffix(""))
        return next((beside[stem, suffix] for suffix in suffixes if (stem, suffix) in beside), f"{stem}.*")

    named = {"audio": AUDIO_SUFFIXES, "image": IMAGE_SUFFIXES}
    return {kind: found.get(kind) or [twin(name, suffixes) for name in names] for kind, suffixes in named.items()}


AUDIOFOLDER = Layout("audiofolder", is_audiofolder, read_audiofolder)
