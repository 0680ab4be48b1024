"""Builds the columns of data sets chunk by chunk: made in worker processes, through the towers, onto the disk.

A chunk that is done has a record, written after its rows are on the disk; a build goes on with the chunks that have
none. What a chunk holds depends on nothing but its rows, so a build that was stopped ends with the very same bytes.
"""

import csv
import math
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxsd.data.columns import ABOUT, Kind, create_columns, finish_columns, write_rows
from jaxsd.data.workers import Examples, Make, Workers, join
from jaxsd.files import read_json, replacing, write_json
from jaxsd.progress import Progress

CHUNK = 256  # rows that the towers take at once, and that have one record
BLOCK = 16  # rows that a worker makes at once
AHEAD = 2 * CHUNK // BLOCK  # blocks that workers make before they are asked for
UNWRITTEN = 2  # chunks that may wait for the disk
RECORDS = "records"
PLAN = f"{RECORDS}/plan.json"


class Towers(Protocol):
    """Makes columns of captions and pictures: CHUNK rows, of which those beyond the given ones mean nothing."""

    kinds: Mapping[str, Kind]
    about: Mapping[str, Any]  # what `dataset.json` says of them

    def __call__(self, rows: Examples) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class SplitBuild:
    """A data set to be built in `folder`: `items(first, last)` names its rows, and `about` says what they are."""

    folder: Path
    size: int
    items: Callable[[int, int], Sequence]
    about: dict[str, Any]

    @property
    def chunks(self) -> int:
        return math.ceil(self.size / CHUNK)

    def record(self, chunk: int) -> Path:
        return self.folder / RECORDS / f"{chunk:06d}.json"

    def is_begun(self) -> bool:
        return (self.folder / PLAN).is_file()

    def is_filled(self) -> bool:
        return all(self.record(chunk).is_file() for chunk in range(self.chunks))

    def is_finished(self) -> bool:
        return (self.folder / ABOUT).is_file()

    def check(self):
        """Raise ValueError where `folder` holds a data set, or the beginning of one, that is another."""
        for path in (self.folder / ABOUT, self.folder / PLAN):
            if path.is_file():
                old, new = read_json(path), self.about
                different = [f"{key} was {old.get(key)!r}, is {new[key]!r}" for key in new if old.get(key) != new[key]]
                if different:
                    raise ValueError(
                        f"{self.folder} holds a data set made otherwise ({'; '.join(different)}); "
                        "remove it or choose another folder"
                    )

    def begin(self, kinds: Mapping[str, Kind]):
        """Make the columns, to be filled."""
        create_columns(self.folder, self.size, kinds)
        (self.folder / RECORDS).mkdir(exist_ok=True)
        write_json(self.folder / PLAN, self._said())

    def bad(self) -> dict[int, dict]:
        """The bad rows of the chunks that are done, by place."""
        found = {}
        for chunk in range(self.chunks):
            if self.record(chunk).is_file():
                bad = read_json(self.record(chunk))["bad"]
                found |= {chunk * CHUNK + int(place): row for place, row in bad.items()}
        return found

    def finish(self, names: Iterable[str], about: Mapping[str, Any]):
        """Take the bad rows out and write `dataset.json`, with `about` too."""
        if not self.is_finished():
            bad = np.array(sorted(self.bad()), np.int64)
            about = {**self._said(), **about, "skipped": len(bad)}
            finish_columns(self.folder, list(names), self.size, bad, about)
        shutil.rmtree(self.folder / RECORDS, ignore_errors=True)

    def _said(self) -> dict[str, Any]:
        return {key: value for key, value in self.about.items() if value is not None}


def all_there(splits: Sequence[SplitBuild]) -> bool:
    """Whether there is nothing left to build. Raises ValueError where a folder holds another data set."""
    for split in splits:
        split.check()
    return all(split.is_finished() for split in splits)


def build(
    splits: Sequence[SplitBuild],
    make: Make,
    kinds: Mapping[str, Kind],
    towers: Towers,
    *,
    give_up: Make | None = None,
    workers: int | None = None,
    skipped: Path | None = None,
    max_bad: float = 0.0,
):
    """Build what is left of `splits`, together with the other processes of `jax.distributed` if there are some.

    `make(items)` gives rows with columns of these `kinds`, in one of `workers` other processes (None: one a core; 0:
    in this one), and `give_up(items)` bad ones in place of those that end that process. Bad rows are listed in the CSV
    file `skipped` and left out. Raises ValueError where they are more than the share `max_bad` of all or a whole split.
    """
    import jax  # not above, for the workers need none of it

    index, count = jax.process_index(), jax.process_count()
    kinds = {**kinds, **towers.kinds}
    if index == 0:
        for split in splits:
            if not (split.is_begun() or split.is_finished()):
                split.begin(kinds)
    _wait_for(lambda: all(split.is_begun() or split.is_finished() for split in splits))

    if not any(split.is_finished() for split in splits):  # else the bad rows were judged
        total = sum(split.size for split in splits)
        most_bad = max_bad * total if count == 1 else math.inf  # no process knows the others'
        try:
            _fill(splits, Workers(make, give_up, workers, AHEAD), towers, (index, count), most_bad)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("stopped; run the same command to go on") from None
        if count > 1:
            _wait_for(lambda: all(split.is_filled() or split.is_finished() for split in splits))
        bad = [row for split in splits for row in split.bad().values()]
        if index == 0 and skipped is not None:
            _list(bad, skipped)
        if len(bad) > max_bad * total:
            raise ValueError(
                f"{len(bad)} rows are bad, more than the share of {max_bad:g} of {total} that is allowed (--max-bad); "
                f"{skipped} says why; to go on without them allow more, to read them again remove {skipped.parent}"
            )
        for split in splits:
            if len(split.bad()) == split.size:
                raise ValueError(f"{split.folder}: not one of its {split.size} rows is good; {skipped} says why")
    if index == 0:
        for split in splits:
            split.finish(kinds, towers.about)
    _wait_for(lambda: all(split.is_finished() for split in splits))


def _fill(splits: Sequence[SplitBuild], workers: Workers, towers: Towers, share: tuple[int, int], most_bad: float):
    """Make the chunks that have no record, as far as they are this process's share: its index and the number of all.

    It stops early where more than `most_bad` rows are bad.
    """
    index, count = share
    mine = [(split, chunk) for split in splits for chunk in range(split.chunks)][index::count]
    left = [(split, chunk) for split, chunk in mine if not split.record(chunk).is_file()]
    total = sum(len(_places(*part)) for part in mine)
    done = first = total - sum(len(_places(*part)) for part in left)
    bad = sum(len(split.bad()) for split in splits)

    def items():
        for split, chunk in left:
            for block in _blocks(split, chunk):
                yield split.items(block[0], block[-1] + 1)

    waited, start = 0.0, time.monotonic()
    with (
        workers as pool,
        ThreadPoolExecutor(1) as writer,
        Progress("data", total, done, unit="row") as progress,
    ):
        made, writing = pool.map(items()), deque()
        for split, chunk in left:
            asked = time.monotonic()
            rows = join([next(made) for _ in _blocks(split, chunk)])
            waited += time.monotonic() - asked
            # The towers are asked here and waited for by the writer.
            writing.append(writer.submit(_save, split, chunk, rows.bad, rows.columns, towers(rows)))
            if len(writing) > UNWRITTEN:
                done += writing.popleft().result()
                progress.advance(done)
            bad += len(rows.bad)
            if bad > most_bad:
                break
        for saved in writing:
            done += saved.result()
            progress.advance(done)
    if left:
        took = time.monotonic() - start
        said = f"{took:.0f} s, {(done - first) / took:.0f} rows/s, {waited / took:.0%} of the time waiting for rows"
        print(said, file=sys.stderr)


def _wait_for(condition: Callable[[], bool]):
    """Wait for what another process does on the shared file system."""
    while not condition():
        time.sleep(0.5)


def _list(bad: list[dict], path: Path):
    """Write bad rows as CSV, in their order."""
    with replacing(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("row", "file", "reason"))
        writer.writeheader()
        writer.writerows(sorted(bad, key=lambda row: row["row"]))


def _places(split: SplitBuild, chunk: int) -> range:
    return range(chunk * CHUNK, min((chunk + 1) * CHUNK, split.size))


def _blocks(split: SplitBuild, chunk: int) -> list[range]:
    places = _places(split, chunk)
    return [places[first : first + BLOCK] for first in range(0, len(places), BLOCK)]


def _save(split: SplitBuild, chunk: int, bad: dict, made: Mapping[str, np.ndarray], features: Mapping[str, Any]) -> int:
    """Write a chunk, then its record; the number of rows."""
    places = _places(split, chunk)
    features = {name: np.asarray(column)[: len(places)] for name, column in features.items()}
    write_rows(split.folder, places[0], {**made, **features})
    write_json(split.record(chunk), {"bad": bad})
    return len(places)
