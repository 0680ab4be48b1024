"""Worker processes that make the examples of data sets. Nothing here imports JAX, which they do not need."""

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Examples:
    """What workers make of n items: columns, and what the towers make further columns of.

    columns: arrays (n, ...). captions: n strings. images, vae_images: uint8 (n, side, side, 3) for CLIP and for the
    VAE; None where these are not asked. bad: the examples that could not be made, by index: "row", "file" and "reason".
    The columns and images of a bad example are zeros. warnings: sentences about the others, which name their row.
    """

    columns: dict[str, np.ndarray]
    captions: list[str]
    images: np.ndarray | None
    vae_images: np.ndarray | None
    bad: dict[int, dict]
    warnings: list[str] = field(default_factory=list)


def concatenate(parts: Sequence[Examples]) -> Examples:
    """The examples of all parts, in their order."""
    firsts = itertools.accumulate((len(part.captions) for part in parts), initial=0)

    def joined(arrays: list) -> np.ndarray | None:
        return None if arrays[0] is None else np.concatenate(arrays)

    return Examples(
        columns={name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns},
        captions=[caption for part in parts for caption in part.captions],
        images=joined([part.images for part in parts]),
        vae_images=joined([part.vae_images for part in parts]),
        bad={first + index: bad for first, part in zip(firsts, parts, strict=False) for index, bad in part.bad.items()},
        warnings=[warning for part in parts for warning in part.warnings],
    )


MakeExamples = Callable[[Sequence], Any]  # Examples, but where every sequence is of one item


class Workers:
    """Processes that make examples of items.

    Args:
        make: the examples of a sequence of items.
        give_up: bad examples of items in place of those that end their process, as a decoder that crashes does. Where
            it is None, such items end the work.
        count: the number of processes. None: one a core. 0: the items are made in this process.
        ahead: how many sequences are made before they are asked for, at least two a process.
    """

    def __init__(self, make: MakeExamples, give_up: MakeExamples | None, count: int | None, ahead: int):
        self.make, self.give_up = make, give_up
        self.count = _count_cores() if count is None else count
        self.ahead = max(ahead, 2 * self.count)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self):
        return self

    def map(self, blocks: Iterable[Sequence]) -> Iterator[Any]:
        """The examples of each sequence of items, in order; or what else `make` makes of sequences of one item."""
        if not self.count:
            yield from map(self.make, blocks)
            return
        ahead: deque[tuple[Sequence, Future]] = deque()
        for items in itertools.chain(blocks, [None]):
            if items is not None:
                ahead.append((items, self._submit(items, self.count)))
            while ahead and (items is None or len(ahead) > self.ahead):
                try:
                    yield ahead[0][1].result()
                    ahead.popleft()
                except BrokenProcessPool:  # which of the sequences ahead did it is not known
                    self._shut_down()
                    yield from (self._make_one_by_one(block) for block, _ in ahead)
                    self._shut_down()
                    ahead.clear()

    def _make_one_by_one(self, block: Sequence) -> Any:
        parts = []
        for index in range(len(block)):
            items = block[index : index + 1]
            try:
                parts.append(self._submit(items, 1).result())
            except BrokenProcessPool:
                if self.give_up is None:
                    raise
                parts.append(self.give_up(items))
                self._shut_down()
        return parts[0] if len(parts) == 1 else concatenate(parts)

    def _submit(self, items: Sequence, count: int) -> Future:
        """Let one of the processes make the items; where there are none, start `count` of them."""
        if self._pool is None:
            # Spawn, because forking a process whose accelerator runtime holds threads can hang.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(count, context, initializer=_start_worker)
        try:
            return self._pool.submit(self.make, items)
        except BrokenProcessPool as error:  # by a sequence before this one
            broken = Future()
            broken.set_exception(error)
            return broken

    def _shut_down(self):
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def __exit__(self, error, *_):
        if error is not None and self._pool is not None:  # what they make is no longer wanted
            for process in list(self._pool._processes.values()):
                process.kill()
        self._shut_down()


def _count_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker():
    """End with the parent, however that ends, leave Ctrl-C to it, and silence what decoders print."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow():
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
