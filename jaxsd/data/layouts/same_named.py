"""The layout `same-named`: a folder in which the files of one example have one name, as `7.wav`, `7.png`, `7.txt`.

Either they lie side by side, at any depth, or the folder holds one folder for each kind (`audio/7.wav`,
`images/7.png`). The captions are files `.txt`, or rows of one table in the folder.
"""

from collections import defaultdict
from pathlib import Path

from jaxsd.data.layouts.layout import Layout
from jaxsd.data.layouts.tables import (
    AUDIO_SUFFIXES,
    IMAGE_SUFFIXES,
    TABLE_SUFFIXES,
    TEXT_COLUMNS,
    list_files,
    make_manifest,
    pick_column,
    read_table,
)
from jaxsd.data.manifest import Manifest
from jaxsd.data.stores import SourcePath
from jaxsd.data.video import VIDEO_SUFFIXES

KINDS = {"audio": AUDIO_SUFFIXES, "image": IMAGE_SUFFIXES, "text": (".txt",)}
KEY_COLUMNS = ("file", "file_name", "audio", "image", "name", "id", "key")


def is_same_named(source: SourcePath) -> bool:
    return source.is_dir() and any(path.suffix.lower() in AUDIO_SUFFIXES for path in list_files(source))


def read_same_named(source: SourcePath) -> Manifest:
    """A row for every name that a sound, an image or a caption has, in the order of the names.

    Where an example has several files of one kind, the first suffix of `KINDS` counts. What a row lacks is named
    `7.*`, which no decoder finds. Of a file of captions, the first line that is not empty is the caption.

    Raises:
        ValueError: there is more than one table of captions, or two of its rows have one name.
    """
    files = list_files(source)
    kinds = {path: _kind(path) for path in files}
    by_kind = _folders_are_kinds(kinds)
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for path, kind in kinds.items():
        if kind is not None:
            key = str(Path(*path.parts[1:]).with_suffix("") if by_kind else path.with_suffix(""))
            best = found[key].get(kind)
            if best is None or _preference(path, kind) < _preference(best, kind):
                found[key][kind] = path
    captions = _read_captions(source, [path for path in files if path.suffix.lower() in TABLE_SUFFIXES])
    for stem in captions:
        if stem not in found:
            found[stem] = {}
    keys = sorted(found, key=_natural)
    return make_manifest(
        source,
        {
            "audio": [str(found[key].get("audio", f"{key}.*")) for key in keys],
            "image": [str(found[key].get("image", f"{key}.*")) for key in keys],
            "text": [captions[key] if key in captions else _first_line(source, found[key].get("text")) for key in keys],
        },
    )


def _kind(path: Path) -> str | None:
    return next((kind for kind, suffixes in KINDS.items() if path.suffix.lower() in suffixes), None)


def _preference(path: Path, kind: str) -> int:
    return KINDS[kind].index(path.suffix.lower())


def _folders_are_kinds(kinds: dict[Path, str | None]) -> bool:
    """Whether every folder in the folder holds files of one kind alone, and there are at least two kinds."""
    folders = defaultdict(set)
    for path, kind in kinds.items():
        if kind is not None:
            folders[path.parts[0] if len(path.parts) > 1 else ""].add(kind)
    one_each = all(len(found) == 1 for found in folders.values()) and "" not in folders
    return one_each and len(set().union(*folders.values())) > 1


def _natural(key: str) -> tuple:
    """Names that are numbers in the order of the numbers, before the others."""
    return (0, int(key), key) if key.isdecimal() and key.isascii() else (1, 0, key)


def _first_line(source: SourcePath, path: Path | None) -> str | None:
    if path is None:
        return None
    text = (source / path).read_text(encoding="utf-8-sig", errors="replace")
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _read_captions(source: SourcePath, tables: list[Path]) -> dict[str, str | None]:
    """The captions of the one table in the folder, by name; {} where there is none."""
    if not tables:
        return {}
    if len(tables) > 1:
        raise ValueError(
            f"{source} holds more than one table: {', '.join(map(str, tables[:5]))}; keep that of captions"
        )
    path = source / tables[0]
    table = read_table(path)
    names = table[pick_column(table, KEY_COLUMNS, path, "names of files")].to_pylist()
    texts = table[pick_column(table, TEXT_COLUMNS, path, "captions")].to_pylist()
    captions = {}
    for row, (name, text) in enumerate(zip(names, texts, strict=True)):
        name = str(name or "")
        known = Path(name).suffix.lower() in (*AUDIO_SUFFIXES, *IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
        key = str(Path(name).with_suffix("")) if known else name
        if not key:
            raise ValueError(f"{path}: row {row} names no file")
        if key in captions:
            raise ValueError(f"{path}: row {row} is the second for {key!r}; every name must have one caption")
        captions[key] = text
    return captions


SAME_NAMED = Layout("same-named", is_same_named, read_same_named)
