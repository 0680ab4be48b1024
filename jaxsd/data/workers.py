"""Worker processes that make rows of data sets; nothing here imports JAX, which they do not need."""

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np


@dataclass
class Examples:
    """What workers make: columns, and what the towers make columns of. A bad row is zeros and has an entry in `bad`.

    captions: n strings. pictures, vae_pictures: uint8 (n, side, side, 3) for CLIP and, if it is asked, for the VAE.
    bad: by place, "row", "file" and "reason".
    """

    columns: dict[str, np.ndarray]
    captions: list[str]
    pictures: np.ndarray
    vae_pictures: np.ndarray | None
    bad: dict[int, dict]


def join(parts: list[Examples]) -> Examples:
    firsts = itertools.accumulate((len(part.captions) for part in parts), initial=0)
    return Examples(
        {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns},
        [caption for part in parts for caption in part.captions],
        np.concatenate([part.pictures for part in parts]),
        None if parts[0].vae_pictures is None else np.concatenate([part.vae_pictures for part in parts]),
        {first + place: row for first, part in zip(firsts, parts, strict=False) for place, row in part.bad.items()},
    )


Make = Callable[[Sequence], Examples]


class Workers:
    """`count` processes (None: one a core; 0: this one) that make rows of items, in order and some blocks `ahead`.

    Items that end their process, as a decoder that crashes does, are made by `give_up` in this one.
    """

    def __init__(self, make: Make, give_up: Make | None, count: int | None, ahead: int):
        self.make, self.give_up = make, give_up
        self.count = _cores() if count is None else count
        self.ahead = max(ahead, 2 * self.count)

        self._pool = None

    def __enter__(self):
        return self

    def map(self, blocks: Iterable[Sequence]) -> Iterator[Examples]:
        """The rows of each block of items."""
        if not self.count:
            yield from map(self.make, blocks)
            return
        ahead = deque()
        for items in itertools.chain(blocks, [None]):
            if items is not None:
                ahead.append((items, self._submit(items, self.count)))
            while ahead and (items is None or len(ahead) > self.ahead):
                try:
                    yield ahead[0][1].result()
                    ahead.popleft()
                except BrokenProcessPool:  # which of the blocks ahead did it is not known
                    self._end()
                    yield from (self._one_by_one(block) for block, _ in ahead)
                    self._end()
                    ahead.clear()

    def _one_by_one(self, block: Sequence) -> Examples:
        parts = []
        for place in range(len(block)):
            items = block[place : place + 1]
            try:
                parts.append(self._submit(items, 1).result())
            except BrokenProcessPool:
                if self.give_up is None:
                    raise
                parts.append(self.give_up(items))
                self._end()
        return join(parts)

    def _submit(self, items: Sequence, count: int) -> Future:
        """Let one of `count` new processes make rows, or one of those that are there."""
        if self._pool is None:
            # Spawn, because forking a process whose accelerator runtime holds threads can hang.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(count, context, initializer=_begin_work)
        try:
            return self._pool.submit(self.make, items)
        except BrokenProcessPool as error:  # by a block before this one
            broken = Future()
            broken.set_exception(error)
            return broken

    def _end(self):
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def __exit__(self, *_):
        self._end()


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin_work():
    """End with the parent, however that ends, leave Ctrl-C to it, and keep what decoders print to themselves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    parent = multiprocessing.parent_process()

    def follow():
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
