"""A progress bar with rate and time left on a terminal, plain lines otherwise."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

LINE_EVERY = 15.0  # seconds between plain lines
WORTH_SAYING = 5.0  # seconds of compilation
KNOWN_AFTER = 5.0  # seconds, from which on the time left is reckoned
STEPS_AHEAD = 2  # steps that a device has to do while the bar waits for the one before


class Progress:
    """Counts the steps of one job, as a context manager: `advance` says how many are done.

    `update` sets the figures shown beside the count, `note` prints a line for good, `status` says what is being done
    where that is no step. Nothing is printed where `shown` is false: several processes at one job need one bar. Where
    the first step `compiles`, rate and time left are reckoned without it.
    """

    def __init__(
        self, name: str, total: int, done: int = 0, unit: str = "step", shown: bool = True, compiles: bool = False
    ):
        self.name, self.total, self.first, self.unit, self.shown = name, total, done, unit, shown
        self.compiles = compiles
        self.figures: dict[str, float] = {}
        self.bar: tqdm | None = None

    def __enter__(self):
        self.on_terminal = self.shown and sys.stderr.isatty()
        self.restart(self.first)
        return self

    def restart(self, done: int):
        """Count rate and time left from here on; `done` steps are done."""
        self.first = self.done = done
        self.start = self.last_line = time.monotonic()
        if self.on_terminal:
            if self.bar is not None:
                self.bar.leave = False
                self.bar.close()
            name = f"{self.name}: compiling" if self.compiles else self.name
            self.bar = tqdm(desc=name, total=self.total, initial=done, unit=self.unit)

    def advance(self, done: int):
        if self.compiles:
            self.compiles = False
            if time.monotonic() - self.start >= WORTH_SAYING:
                self.note(f"{self.name}: compiled in {time.monotonic() - self.start:.0f} s")
            self.restart(done)
        if self.bar is not None:
            self.bar.update(done - self.done)
        self.done = done
        now = time.monotonic()
        due = now - self.last_line >= LINE_EVERY or done == self.total
        if self.shown and not self.on_terminal and due:
            self.last_line = now
            parts = [f"{self.name} {done}/{self.total} {self.unit}s", *self._rate(now), *self._figures()]
            print(", ".join(parts), file=sys.stderr, flush=True)

    def follow(self, before: int) -> Callable[[int, int, Any], None]:
        """An `on_step` that counts the steps which the device has done, after `before`.

        It waits for a step only when the device has STEPS_AHEAD more to do, so that the device waits for nobody.
        """
        waiting = deque()

        def on_step(done: int, total: int, latents: Any):
            waiting.append(latents)
            if len(waiting) > STEPS_AHEAD:
                waiting.popleft().block_until_ready()
                self.advance(before + done - STEPS_AHEAD)

        return on_step

    def update(self, figures: dict[str, float]):
        self.figures.update(figures)
        if self.bar is not None:
            self.bar.set_postfix_str(", ".join(self._figures()), refresh=False)

    def note(self, text: str):
        if self.shown:
            tqdm.write(text, file=sys.stderr)

    @contextmanager
    def status(self, doing: str) -> Iterator[None]:
        """Show what is being done until the end of a `with` block."""
        if self.bar is not None:
            self.bar.set_description(f"{self.name}: {doing}")
        yield
        if self.bar is not None:
            self.bar.set_description(self.name, refresh=False)

    def seconds_left(self) -> float | None:
        """How long the rest takes, or None where nothing is known yet: in the first seconds."""
        seconds = time.monotonic() - self.start
        if self.done == self.first or seconds < KNOWN_AFTER:
            return None
        return (self.total - self.done) * seconds / (self.done - self.first)

    def _rate(self, now: float) -> list[str]:
        if self.done == self.first:
            return []
        rate = (self.done - self.first) / max(now - self.start, 1e-9)
        return [f"{rate:.2f}/s", f"{(self.total - self.done) / rate:.0f} s left"]

    def _figures(self) -> list[str]:
        return [f"{name} {value:.4g}" for name, value in self.figures.items()]

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.close()
