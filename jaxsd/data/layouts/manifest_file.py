"""The layout `manifest`: a CSV, JSON Lines or Parquet file that names a sound, an image and a caption a row."""

from jaxsd.data.layouts.layout import Layout
from jaxsd.data.manifest import READERS, read_manifest
from jaxsd.data.stores import SourcePath


def is_manifest_file(source: SourcePath) -> bool:
    return source.is_file() and source.suffix.lower() in READERS


MANIFEST_FILE = Layout("manifest", is_manifest_file, read_manifest)
