"""The interface of a layout."""

from collections.abc import Callable
from typing import NamedTuple

from jaxsd.data.manifest import Manifest
from jaxsd.data.stores import SourcePath


class Layout(NamedTuple):
    """A way in which data sets lie on a disk.

    name: what --layout calls it. matches: whether a file or folder looks like it. read: the rows of one; it raises
    ValueError that names the file and what does not fit.
    """

    name: str
    matches: Callable[[SourcePath], bool]
    read: Callable[[SourcePath], Manifest]
