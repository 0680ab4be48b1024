"""Builds the columns of data sets chunk by chunk: made in worker processes, through the towers, onto the disk.

A chunk that is done has a record, written after its examples are on the disk; a build goes on with the chunks that have
none. What a chunk holds depends on nothing but its items, so a build that was stopped ends with the very same bytes.
"""

import csv
import math
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxsd.data.columns import (
    METADATA,
    ColumnType,
    add_columns,
    create_columns,
    digest_column,
    finish_columns,
    write_examples,
)
from jaxsd.data.executors import Executor, LocalExecutor, RayExecutor, Work
from jaxsd.data.workers import Examples, MakeExamples
from jaxsd.runtime.files import lock_folder, read_json, replacing, write_json
from jaxsd.runtime.progress import Progress, counted

CHUNK = 256  # examples that have one record
WORKER_ITEMS = 16  # items that a worker makes examples of at once
AHEAD = 2 * CHUNK // WORKER_ITEMS  # how many times as many are made before they are asked for
UNWRITTEN = 2  # chunks that may wait for the disk
WARNINGS = 20  # warnings that are printed
RECORDS = "records"
PLAN = f"{RECORDS}/plan.json"
# A path is where something was found. What it is, its digest says: a path may differ where the digests agree.
DIGESTS = {name: f"{name}_sha256" for name in ("source", "clip", "tokenizer", "diffusion", "vae")}


@runtime_checkable
class Towers(Protocol):
    """Makes columns of captions and images."""

    @property
    def column_types(self) -> Mapping[str, ColumnType]:
        """The columns that are made."""
        ...

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What `dataset.json` says of these columns."""
        ...

    def __call__(self, examples: Examples) -> Mapping[str, Any]:
        """Arrays, on a device or not; a device may not be done with them."""
        ...

    def check(self, columns: Mapping[str, np.ndarray]):
        """Raise ValueError where what was made must not go to the disk."""
        ...


@dataclass(frozen=True)
class SplitBuild:
    """A split to be built.

    folder: where. size: how many examples. items: `items(first, last)` gives what the examples of these indices are
    made of. metadata: what identifies the split, for dataset.json; keys that are None are left out. added: the keys of
    `metadata` that a finished split does not have yet, where columns are added to it; () where a new split is built.
    """

    folder: Path
    size: int
    items: Callable[[int, int], Sequence]
    metadata: dict[str, Any]
    added: tuple[str, ...] = ()

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
        path = self.folder / METADATA
        return path.is_file() and not self._differences(read_json(path))

    def check_same(self):
        """Raise ValueError where `folder` holds another split, finished or not."""
        for path, missing in ((self.folder / METADATA, self.added), (self.folder / PLAN, ())):
            if path.is_file():
                old = read_json(path)
                different = [key for key in self._differences(old) if not (key in missing and old.get(key) is None)]
                if different:
                    said = "; ".join(f"{key} was {old.get(key)!r}, is {self.metadata[key]!r}" for key in different)
                    raise ValueError(
                        f"{self.folder} holds a data set made otherwise ({said}); remove it or choose another folder"
                    )

    def _differences(self, old: Mapping[str, Any]) -> list[str]:
        """The keys under which `old` says something else than this split."""
        new = self.metadata
        same = {key for key, digest in DIGESTS.items() if new.get(digest) and old.get(digest) == new.get(digest)}
        unknown = {digest for digest in DIGESTS.values() if digest not in old and digest not in self.added}
        return [key for key in new if old.get(key) != new[key] and key not in same | unknown]

    def create(self, types: Mapping[str, ColumnType]):
        """Create the columns, to be filled, and the plan."""
        create_columns(self.folder, self.size, types)
        (self.folder / RECORDS).mkdir(exist_ok=True)
        write_json(self.folder / PLAN, self._known_metadata())

    def bad(self) -> dict[int, dict]:
        """The bad examples of the chunks that are done, by index."""
        found = {}
        for chunk in range(self.chunks):
            if self.record(chunk).is_file():
                bad = read_json(self.record(chunk))["bad"]
                found |= {chunk * CHUNK + int(index): entry for index, entry in bad.items()}
        return found

    def finish(self, names: Iterable[str], metadata: Mapping[str, Any]):
        """Take the bad examples out and write `dataset.json`, with `metadata` too.

        Raises ValueError where a chunk is no longer what was written.
        """
        if not self.is_finished():
            self._check_chunks()
            bad = np.array(sorted(self.bad()), np.int64)
            metadata = {**self._known_metadata(), **metadata}
            if self.added:
                add_columns(self.folder, names, metadata)
            else:
                finish_columns(self.folder, names, self.size, bad, {**metadata, "skipped": len(bad)})
        shutil.rmtree(self.folder / RECORDS, ignore_errors=True)

    def _check_chunks(self):
        checked = self.folder / RECORDS / "checked.json"
        if checked.is_file():  # and bad examples may have been taken out since
            return
        for chunk in range(self.chunks):
            indices = _indices(self, chunk)
            for name, digest in read_json(self.record(chunk)).get("sha256", {}).items():
                path = self.folder / f"{name}.npy"
                if digest != digest_column(np.load(path, mmap_mode="r"), indices.start, indices.stop):
                    raise ValueError(
                        f"{path}: the examples {indices.start} to {indices.stop - 1} are not those that were written "
                        f"there: another process wrote to this folder too, or the disk is damaged; "
                        f"remove {self.folder} and run the command again"
                    )
        write_json(checked, {})

    def _known_metadata(self) -> dict[str, Any]:
        return {key: value for key, value in self.metadata.items() if value is not None}


def is_built(splits: Sequence[SplitBuild]) -> bool:
    """Whether there is nothing left to build. Raises ValueError where a folder holds another split."""
    for split in splits:
        split.check_same()
    return all(split.is_finished() for split in splits)


def build(
    splits: Sequence[SplitBuild],
    make: MakeExamples,
    column_types: Mapping[str, ColumnType],
    towers: Towers,
    *,
    give_up: MakeExamples | None = None,
    executor: Executor | None = None,
    skipped: Path | None = None,
    max_bad: float = 0.0,
):
    """Build what is left of splits, together with the other processes of `jax.distributed` if there are some.

    Args:
        splits: the splits.
        make: the examples of a sequence of items.
        column_types: the columns that `make` gives.
        towers: makes the further columns.
        give_up: bad examples in place of items that end the process that makes them.
        executor: makes the examples; by default a process a core.
        skipped: the CSV file that lists the bad examples, which are left out.
        max_bad: the share of all examples that may be bad.

    Raises:
        ValueError: another process fills one of the folders, more than `max_bad` of the examples are bad, or all of a
            split; or several processes would each drive Ray.
    """
    import jax  # not above, for the workers need none of it

    index, count = jax.process_index(), jax.process_count()
    executor = executor or LocalExecutor(ahead=AHEAD)
    if count > 1 and isinstance(executor, RayExecutor):
        raise ValueError(f"--ray takes one process, which has the whole cluster; there are {count}")
    column_types = {**column_types, **towers.column_types}
    with ExitStack() as locks:
        if index == 0:
            for split in splits:
                locks.enter_context(lock_folder(split.folder))
            is_built(splits)  # once more: another process may have built here since it was asked
            for split in splits:
                if not (split.is_begun() or split.is_finished()):
                    split.create(column_types)
        _wait_for(lambda: all(split.is_begun() or split.is_finished() for split in splits))

        if not any(split.is_finished() for split in splits):  # else the bad examples were judged
            total = sum(split.size for split in splits)
            most_bad = max_bad * total if count == 1 else math.inf  # no process knows the others'
            try:
                _fill(splits, executor, Work(_ItemsOf(splits), make, give_up, towers), (index, count), most_bad)
            except KeyboardInterrupt as stop:
                raise type(stop)("stopped; run the same command to go on") from None
            if count > 1:
                _wait_for(lambda: all(split.is_filled() or split.is_finished() for split in splits))
            if index == 0:
                _judge(splits, skipped, max_bad * total, f"the share of {max_bad:g} of {total}")
        if index == 0:
            for split in splits:
                split.finish(column_types, towers.metadata)
        _wait_for(lambda: all(split.is_finished() for split in splits))


def _judge(splits: Sequence[SplitBuild], skipped: Path | None, most_bad: float, allowed: str):
    """List the bad examples in the file `skipped`. Raises ValueError where they are too many."""
    bad = [entry for split in splits for entry in split.bad().values()]
    where = ""
    if skipped is not None:
        _write_skipped(bad, skipped)
        where = f"; {skipped} says why"
    if len(bad) > most_bad:
        if any(split.added for split in splits):
            for split in splits:
                for index in split.bad():
                    split.record(index // CHUNK).unlink(missing_ok=True)  # to be read again
            raise ValueError(
                f"row {bad[0]['row']} can no longer be read ({bad[0]['reason']}), so nothing is added to "
                f"{splits[0].folder.parent}; bring the file back and run the command again"
            )
        raise ValueError(
            f"{counted(len(bad), 'bad row')}, more than {allowed} that is allowed (--max-bad), the first being row "
            f"{bad[0]['row']}: {bad[0]['reason']}{where}; to go on without them allow more, to read them again remove "
            f"{splits[0].folder.parent}"
        )
    for split in splits:
        if len(split.bad()) == split.size:
            raise ValueError(f"{split.folder}: none of its {counted(split.size, 'row')} is good{where}")


@dataclass(frozen=True)
class _ItemsOf:
    """The items of a chunk, given as the number of its split and its own, in the sequences that a worker makes."""

    splits: Sequence[SplitBuild]

    def __call__(self, part: tuple[int, int]) -> list[Sequence]:
        number, chunk = part
        split = self.splits[number]
        return [split.items(indices[0], indices[-1] + 1) for indices in _worker_indices(split, chunk)]


def _fill(splits: Sequence[SplitBuild], executor: Executor, work: Work, share: tuple[int, int], most_bad: float):
    """Make the chunks that have no record, as far as they are this process's share: its index and the number of all.

    It stops early where more than `most_bad` examples are bad.
    """
    index, count = share
    mine = [(number, chunk) for number, split in enumerate(splits) for chunk in range(split.chunks)][index::count]
    left = [(number, chunk) for number, chunk in mine if not splits[number].record(chunk).is_file()]
    total = sum(len(_indices(splits[number], chunk)) for number, chunk in mine)
    done = first = total - sum(len(_indices(splits[number], chunk)) for number, chunk in left)
    bad = sum(len(split.bad()) for split in splits)
    assert isinstance(work.towers, Towers)

    start, warned = time.monotonic(), 0
    with (
        closing(executor.run(work, left)) as all_made,
        _writer() as writer,
        Progress("data", total, done, unit="example", compiles=True) as progress,
    ):
        writing = deque[Future]()
        for (number, chunk), examples, features in all_made:
            for warning in examples.warnings[: max(0, WARNINGS - warned)]:
                progress.note(warning)
            warned += len(examples.warnings)
            # The towers may not be done yet: the writer waits for them.
            writing.append(writer.submit(_write_chunk, splits[number], chunk, examples, features, work.towers.check))
            if len(writing) > UNWRITTEN:
                done += writing.popleft().result()
                progress.advance(done)
            bad += len(examples.bad)
            if bad > most_bad:
                break
        for written in writing:
            done += written.result()
            progress.advance(done)
    if warned > WARNINGS:
        print(f"and {counted(warned - WARNINGS, 'further warning')}", file=sys.stderr)
    if left:
        seconds = time.monotonic() - start
        waited = executor.waited
        said = "" if waited is None else f", and CLIP waited for files to be read {waited / seconds:.0%} of the time"
        print(f"{seconds:.0f} s, {(done - first) / seconds:.0f} examples/s{said}", file=sys.stderr)


@contextmanager
def _writer() -> Iterator[ThreadPoolExecutor]:
    """One thread; what it has not begun when an error or Ctrl-C ends the block is dropped, and not waited for."""
    writer = ThreadPoolExecutor(1)
    try:
        yield writer
    except BaseException:
        writer.shutdown(wait=False, cancel_futures=True)
        raise
    writer.shutdown()


def _wait_for(condition: Callable[[], bool]):
    """Wait for what another process does on the shared file system."""
    while not condition():
        time.sleep(0.5)


def _write_skipped(bad: list[dict], path: Path):
    """Write bad examples as CSV, in the order of their rows."""
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, ("row", "file", "reason"))
        writer.writeheader()
        writer.writerows(sorted(bad, key=lambda entry: entry["row"]))


def _indices(split: SplitBuild, chunk: int) -> range:
    """The indices of a chunk's examples."""
    return range(chunk * CHUNK, min((chunk + 1) * CHUNK, split.size))


def _worker_indices(split: SplitBuild, chunk: int) -> list[range]:
    """The same, in parts of as many as a worker makes at once."""
    indices = _indices(split, chunk)
    return [indices[first : first + WORKER_ITEMS] for first in range(0, len(indices), WORKER_ITEMS)]


def _write_chunk(
    split: SplitBuild, chunk: int, examples: Examples, features: Mapping[str, Any], check: Callable
) -> int:
    """Check and write a chunk, then its record; return how many examples it has."""
    indices = _indices(split, chunk)
    made = {name: np.asarray(column) for name, column in features.items()}
    check(made)
    columns = {**examples.columns, **made}
    write_examples(split.folder, indices[0], columns)
    digests = {name: digest_column(column) for name, column in columns.items()}
    write_json(split.record(chunk), {"bad": examples.bad, "sha256": digests})
    return len(indices)
