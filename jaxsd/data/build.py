"""Builds the columns of data sets chunk by chunk: made in worker processes, through the towers, onto the disk.

A chunk that is done has a record, written after its rows are on the disk; a build goes on with the chunks that have
none. What a chunk holds depends on nothing but its rows, so a build that was stopped ends with the very same bytes.
"""

import csv
import math
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxsd.config import read_json, write_json
from jaxsd.data.columns import ABOUT, Kind, create_columns, finish_columns, write_rows
from jaxsd.progress import Progress

CHUNK = 256  # rows that the towers take at once, and that have one record
BLOCK = 16  # rows that a worker makes at once
UNWRITTEN = 2  # chunks that may wait for the disk
RECORDS = "records"
PLAN = "plan.json"


@dataclass
class Rows:
    """What workers make: columns, and what the towers make columns of. A bad row is zeros and has an entry in `bad`.

    captions: n strings. pictures, vae_pictures: uint8 (n, side, side, 3) for CLIP and, if it is asked, for the VAE.
    bad: by place, "row", "file" and "reason".
    """

    columns: dict[str, np.ndarray]
    captions: list[str]
    pictures: np.ndarray
    vae_pictures: np.ndarray | None
    bad: dict[int, dict]


class Towers(Protocol):
    """Makes columns of captions and pictures: CHUNK rows, of which those beyond the given ones mean nothing."""

    kinds: Mapping[str, Kind]
    about: Mapping[str, Any]  # what `dataset.json` says of them

    def __call__(self, rows: Rows) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Split:
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
        return (self.folder / RECORDS / PLAN).is_file()

    def is_filled(self) -> bool:
        return all(self.record(chunk).is_file() for chunk in range(self.chunks))

    def is_finished(self) -> bool:
        return (self.folder / ABOUT).is_file()

    def check(self):
        """Raise ValueError where `folder` holds a data set, or the beginning of one, that is another."""
        for path in (self.folder / ABOUT, self.folder / RECORDS / PLAN):
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
        write_json(self.folder / RECORDS / PLAN, self._said())

    def bad(self) -> dict[int, dict]:
        """The bad rows of the chunks that are done, by place."""
        found = {}
        for chunk in range(self.chunks):
            if self.record(chunk).is_file():
                bad = read_json(self.record(chunk))["bad"]
                found |= {chunk * CHUNK + int(place): row for place, row in bad.items()}
        return found

    def finish(self, names: Iterable[str], about: Mapping[str, Any]):
        """Take the bad rows out and write `dataset.json`, with `about` too. Raises ValueError if no row is good."""
        if not self.is_finished():
            bad = np.array(sorted(self.bad()), np.int64)
            if len(bad) == self.size:
                raise ValueError(f"{self.folder}: not one of its {self.size} rows is good")
            about = {**self._said(), **about, "skipped": len(bad)}
            finish_columns(self.folder, list(names), self.size, bad, about)
        shutil.rmtree(self.folder / RECORDS, ignore_errors=True)

    def _said(self) -> dict[str, Any]:
        return {key: value for key, value in self.about.items() if value is not None}


def all_there(splits: Sequence[Split]) -> bool:
    """Whether there is nothing left to build. Raises ValueError where a folder holds another data set."""
    for split in splits:
        split.check()
    return all(split.is_finished() for split in splits)


def build(
    splits: Sequence[Split],
    make: Callable[[Sequence], Rows],
    kinds: Mapping[str, Kind],
    towers: Towers,
    *,
    workers: int | None = None,
    skipped: Path | None = None,
    max_bad: float = 0.0,
):
    """Build what is left of `splits`, together with the other processes of `jax.distributed` if there are some.

    `make(items)` gives rows with columns of these `kinds`, in one of `workers` other processes (None: one a core; 0:
    in this one). Bad rows are listed in the CSV file `skipped` and left out. Raises ValueError where they are more
    than the share `max_bad` of all.
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
        _fill(splits, make, towers, workers, (index, count), max_bad * total if count == 1 else math.inf)
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
    if index == 0:
        for split in splits:
            split.finish(kinds, towers.about)
    _wait_for(lambda: all(split.is_finished() for split in splits))


def _fill(splits: Sequence[Split], make, towers, workers: int | None, share: tuple[int, int], most_bad: float):
    """Make the chunks that have no record, as far as they are this process's share: its index and the number of all.

    It stops early where more than `most_bad` rows are bad.
    """
    index, count = share
    mine = [(split, chunk) for split in splits for chunk in range(split.chunks)][index::count]
    left = [(split, chunk) for split, chunk in mine if not split.record(chunk).is_file()]
    total = sum(len(_places(*part)) for part in mine)
    done = total - sum(len(_places(*part)) for part in left)
    bad = sum(len(split.bad()) for split in splits)

    def calls():
        for split, chunk in left:
            for block in _blocks(split, chunk):
                yield partial(make, split.items(block[0], block[-1] + 1))

    waited, start = 0.0, time.monotonic()
    with (
        Workers(workers) as pool,
        ThreadPoolExecutor(1) as writer,
        Progress("prepare", total, done, unit="row") as progress,
    ):
        made, writing = pool.map(calls()), deque()
        for split, chunk in left:
            asked = time.monotonic()
            rows = _join([next(made) for _ in _blocks(split, chunk)])
            waited += time.monotonic() - asked
            # The towers are asked here and waited for by the writer.
            writing.append(writer.submit(_save, split, chunk, rows, towers(rows)))
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
        rate = sum(len(_places(*part)) for part in left) / took
        print(f"{took:.0f} s, {rate:.0f} rows/s, {waited / took:.0%} of the time waiting for rows", file=sys.stderr)


def _wait_for(condition: Callable[[], bool]):
    """Wait for what another process does on the shared file system."""
    while not condition():
        time.sleep(0.5)


def _list(bad: list[dict], path: Path):
    """Write bad rows as CSV, in their order."""
    part = path.with_name(f"{path.name}.part")
    with part.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("row", "file", "reason"))
        writer.writeheader()
        writer.writerows(sorted(bad, key=lambda row: row["row"]))
    part.replace(path)


def _places(split: Split, chunk: int) -> range:
    return range(chunk * CHUNK, min((chunk + 1) * CHUNK, split.size))


def _blocks(split: Split, chunk: int) -> list[range]:
    places = _places(split, chunk)
    return [places[first : first + BLOCK] for first in range(0, len(places), BLOCK)]


def _join(parts: list[Rows]) -> Rows:
    return Rows(
        {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns},
        [caption for part in parts for caption in part.captions],
        np.concatenate([part.pictures for part in parts]),
        None if parts[0].vae_pictures is None else np.concatenate([part.vae_pictures for part in parts]),
        {index * BLOCK + place: row for index, part in enumerate(parts) for place, row in part.bad.items()},
    )


def _save(split: Split, chunk: int, rows: Rows, features: Mapping[str, Any]) -> int:
    """Write a chunk, then its record; the number of rows."""
    places = _places(split, chunk)
    columns = rows.columns | {name: np.asarray(column)[: len(places)] for name, column in features.items()}
    write_rows(split.folder, places[0], columns)
    write_json(split.record(chunk), {"bad": rows.bad})
    return len(places)


class Workers:
    """Processes that make calls in order, some of them ahead; None is one a core, 0 none."""

    def __init__(self, count: int | None):
        self.count = _cores() if count is None else count

    def __enter__(self):
        # Spawn, because forking a process whose accelerator runtime holds threads can hang.
        context = multiprocessing.get_context("spawn")
        self.pool = ProcessPoolExecutor(self.count, context, initializer=_begin_work) if self.count else None
        return self

    def map(self, calls: Iterable[Callable[[], Rows]]) -> Iterator[Rows]:
        if self.pool is None:
            yield from (call() for call in calls)
            return
        ahead = deque()
        for call in calls:
            ahead.append(self.pool.submit(call))
            if len(ahead) > max(2 * CHUNK // BLOCK, 2 * self.count):
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def __exit__(self, *_):
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin_work():
    """End with the parent, however that ends, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow():
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
