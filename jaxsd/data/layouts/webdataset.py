"""The layout `webdataset`: tar files whose members of one name make an example, as `7.flac`, `7.jpg`, `7.txt`.

Nothing is unpacked: the headers say where a member's bytes lie, and these are read when the row is decoded.
"""

import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from jaxsd.data.layouts.layout import Layout
from jaxsd.data.layouts.tables import AUDIO_SUFFIXES, IMAGE_SUFFIXES, TEXT_COLUMNS, list_files, make_manifest, split_of
from jaxsd.data.manifest import Manifest
from jaxsd.data.stores import SourcePath, read_range
from jaxsd.runtime.files import StoredFile, check_not_pointer

TAR_MEMBER = pa.struct({"name": pa.string(), "file": pa.string(), "offset": pa.int64(), "size": pa.int64()})
TEXT_SUFFIXES = (".txt", ".text", ".caption", ".json")


def is_webdataset(source: SourcePath) -> bool:
    return bool(_tar_files(source))


def _tar_files(source: SourcePath) -> list[Path]:
    """Relative to the folder that the source is or lies in."""
    if source.is_file():
        return [Path(source.name)] if source.suffix.lower() == ".tar" else []
    return [path for path in list_files(source) if path.suffix == ".tar"]


def read_webdataset(source: SourcePath) -> Manifest:
    """The examples of all shards, in the order of the shards and in them.

    Raises ValueError that names a shard which is no tar file, is compressed or was cut.
    """
    folder = source if source.is_dir() else source.parent
    rows = {name: [] for name in ("audio", "image", "text", "split")}
    for shard in _tar_files(source):
        name = str(shard)
        said = split_of(shard.name) or split_of(shard.parent.name)
        for key, example in _read_shard(folder / shard, name).items():
            for kind in ("audio", "image"):
                missing = {"name": f"{name}/{key}.* ({kind})", "file": name, "offset": 0, "size": -1}
                rows[kind].append(example.get(kind, missing))
            rows["text"].append(example.get("text"))
            rows["split"].append(said)
    return make_manifest(source, rows, open_tar_member, TAR_MEMBER)


def _read_shard(shard: SourcePath, name: str) -> dict[str, dict[str, Any]]:
    """The examples by their key: a member's path up to the first dot of its last part."""
    examples: dict[str, dict[str, Any]] = {}
    check_not_pointer(shard)
    try:
        with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if not member.isfile():
                    continue
                parent, _, last = member.name.rpartition("/")
                stem, dot, rest = last.partition(".")
                suffix = f".{rest.rpartition('.')[2].lower()}" if dot else ""
                if not stem or not suffix:
                    continue
                if member.offset_data + member.size > shard.stat().st_size:
                    raise tarfile.ReadError(f"it ends within {member.name}")
                example = examples.setdefault(f"{parent}/{stem}" if parent else stem, {})
                where = {"name": f"{name}/{member.name}", "file": name}
                where |= {"offset": member.offset_data, "size": member.size}
                if suffix in AUDIO_SUFFIXES:
                    example.setdefault("audio", where)
                elif suffix in IMAGE_SUFFIXES:
                    example.setdefault("image", where)
                elif suffix in TEXT_SUFFIXES:
                    content = archive.extractfile(member)
                    assert content is not None
                    caption = _caption_of(content.read(), suffix, f"{name}/{member.name}")
                    if caption is not None:
                        example["text"] = caption
    except tarfile.TarError as error:
        raise ValueError(f"{shard} is not a whole, uncompressed tar file ({error})") from None
    return {key: example for key, example in examples.items() if example}


def _caption_of(data: bytes, suffix: str, name: str) -> str | None:
    if suffix != ".json":
        return data.decode("utf-8", errors="replace").strip()
    try:
        value = json.loads(data)
    except ValueError as error:
        raise ValueError(f"{name}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        return None
    return next((str(value[column]) for column in TEXT_COLUMNS if value.get(column) is not None), None)


def open_tar_member(folder: SourcePath, reference: dict[str, Any]) -> StoredFile:
    """The bytes of a member. Raises ValueError where the example has no such member."""
    if reference["size"] < 0:
        raise ValueError(f"{reference['name']} is not in the archive")
    data = read_range(folder / reference["file"], reference["offset"], reference["size"])
    if len(data) != reference["size"]:
        raise ValueError(f"{reference['name']}: the archive ends within it")
    return StoredFile(reference["name"], data)


WEBDATASET = Layout("webdataset", is_webdataset, read_webdataset)
