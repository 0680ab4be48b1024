"""The layout `vggsound`: videos `ytid_start.mp4` beside VGGSound's own table (YouTube id, start, label, split).

The label is the caption and the class, the video is the group. Of a video, the loudest second is taken and the sharpest
frame of that second.
"""

import csv
from pathlib import Path

from jaxsd.data.layouts.layout import Layout
from jaxsd.data.layouts.tables import SPLIT_NAMES, list_files, make_manifest
from jaxsd.data.manifest import Manifest
from jaxsd.data.stores import SourcePath
from jaxsd.data.video import VIDEO_SUFFIXES
from jaxsd.runtime.progress import counted


def is_vggsound(source: SourcePath) -> bool:
    if not source.is_dir():
        return False
    files = list_files(source)
    return any(path.suffix.lower() in VIDEO_SUFFIXES for path in files) and len(_tables(files)) == 1


def _tables(files: list[Path]) -> list[Path]:
    return [path for path in files if path.suffix.lower() == ".csv"]


def read_vggsound_table(path: SourcePath) -> list[tuple[str, int, str, str]]:
    """YouTube id, start in seconds, label and split of every row. Raises ValueError that names the line."""
    rows = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            if not row or number == 1 and not _is_number(row):
                continue  # an empty line, or a header
            if len(row) < 4 or not _is_number(row) or row[3].strip() not in SPLIT_NAMES:
                raise ValueError(f"{path}: line {number} is not YouTube id, start in seconds, label, train or test")
            rows.append((row[0].strip(), int(float(row[1])), row[2].strip(), SPLIT_NAMES[row[3].strip()]))
    return rows


def _is_number(row: list[str]) -> bool:
    try:
        return float(row[1]) >= 0
    except (IndexError, ValueError):
        return False


def read_vggsound(source: SourcePath) -> Manifest:
    """The rows of the table; the videos may lie at any depth. Raises ValueError where there is not one table."""
    files = list_files(source)
    tables = _tables(files)
    if len(tables) != 1:
        raise ValueError(
            f"{source} holds {counted(len(tables), '.csv file')}; VGGSound's own must be there and no other"
        )
    rows = read_vggsound_table(source / tables[0])
    videos = {path.stem: str(path) for path in files if path.suffix.lower() in VIDEO_SUFFIXES}
    names = [videos.get(f"{video}_{start:06d}", f"{video}_{start:06d}.mp4") for video, start, _, _ in rows]
    labels = [label for _, _, label, _ in rows]
    return make_manifest(
        source,
        {
            "audio": names,
            "image": names,
            "text": labels,
            "class": labels,
            "group": [video for video, *_ in rows],
            "split": [split for *_, split in rows],
        },
    )


VGGSOUND = Layout("vggsound", is_vggsound, read_vggsound)
