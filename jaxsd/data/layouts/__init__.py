"""Layouts: the ways in which data sets lie on a disk, each in one file here.

Such a file ends in a `Layout`: a name, a function that recognizes a source, and one that reads the `Manifest` of its
rows. Where the sounds and images are no files of their own, the manifest has a function that opens them. A new layout
takes such a file and its name in LAYOUTS below.
"""

from jaxsd.data.layouts.audiofolder import AUDIOFOLDER
from jaxsd.data.layouts.layout import Layout
from jaxsd.data.layouts.manifest_file import MANIFEST_FILE
from jaxsd.data.layouts.parquet_bytes import PARQUET_BYTES
from jaxsd.data.layouts.same_named import SAME_NAMED
from jaxsd.data.layouts.vggsound import VGGSOUND
from jaxsd.data.layouts.webdataset import WEBDATASET
from jaxsd.data.manifest import Manifest
from jaxsd.data.stores import locate

# The first that matches counts.
LAYOUTS: dict[str, Layout] = {
    layout.name: layout for layout in (WEBDATASET, PARQUET_BYTES, MANIFEST_FILE, AUDIOFOLDER, VGGSOUND, SAME_NAMED)
}


def read_source(source, layout: str | None = None) -> Manifest:
    """The rows of a manifest file or of a data set in another layout; by default the layout is recognized.

    Raises FileNotFoundError or ValueError that names the file and what does not fit.
    """
    source = locate(source)
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"--layout is {layout!r}; allowed: {', '.join(LAYOUTS)}")
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file")
    # Of a file that nothing matches, the manifest says what is allowed.
    found = layout or next((name for name, one in LAYOUTS.items() if one.matches(source)), None)
    if found is None and source.is_dir():
        raise ValueError(f"{source} is in no layout that is known; allowed: {', '.join(LAYOUTS)} (--layout)")
    manifest = LAYOUTS[found or MANIFEST_FILE.name].read(source)
    if not len(manifest):
        raise ValueError(f"{source} has no rows in the layout {found}")
    return manifest
