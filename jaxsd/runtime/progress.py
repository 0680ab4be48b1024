"""A progress bar with rate and time left on a terminal, plain lines otherwise."""

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

LINE_EVERY = 15.0  # seconds between plain lines
WORTH_SAYING = 5.0  # seconds of compilation
KNOWN_AFTER = 5.0  # seconds, from which on the time left is reckoned
STEPS_AHEAD = 2  # steps that a device has to do while the bar waits for the one before


def counted(number: int, noun: str) -> str:
    """`1 row`, `1,151 rows`."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


class Progress:
    """Counts the steps of one job, as a context manager: `advance` says how many are done.

    `update` sets the figures shown beside the count, `note` prints a line for good, `status` says what is being done
    where that is no step, and `pause` too where it is no work on the steps.
    """

    def __init__(
        self,
        name: str,
        total: int,
        done: int = 0,
        unit: str = "step",
        shown: bool = True,
        compiles: bool = False,
        pauses: Mapping[str, int] | None = None,
    ):
        """Count the steps of a job.

        Args:
            name: stands before the count.
            total: the steps of the job.
            done: the steps that were done before.
            unit: the name of a step.
            shown: whether anything is printed. Several processes at one job need one bar.
            compiles: whether the first step compiles. Rate and time left are reckoned without it.
            pauses: the pauses that are known beforehand, by name: each comes every so many steps, and at the end. The
                time left holds those whose length is known from one before.
        """
        self.name, self.total, self.first, self.unit, self.shown = name, total, done, unit, shown
        self.compiles = compiles
        self.pauses = dict(pauses or {})
        self.pause_seconds: dict[str, float] = {}  # the last one's, by name
        self.figures: dict[str, float] = {}
        self.bar: _Bar | None = None

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
            self.bar = _Bar(self, desc=name)

    def advance(self, done: int):
        if self.compiles:
            self.compiles = False
            if time.monotonic() - self.start >= WORTH_SAYING:
                self.note(f"{self.name}: compiled in {time.monotonic() - self.start:.0f} s")
            self.restart(done)
        before, self.done = self.done, done
        if self.bar is not None:
            self.bar.update(done - before)
        now = time.monotonic()
        due = now - self.last_line >= LINE_EVERY or done == self.total
        if self.shown and not self.on_terminal and due:
            self.last_line = now
            parts = [f"{self.name} {done}/{self.total} {self.unit}s"]
            if rate := self.rate():
                parts += [f"{rate:.2f}/s", f"{self.write_left('{:.0f} s'.format)} left"]
            print(", ".join([*parts, *self._figures()]), file=sys.stderr, flush=True)

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

    @contextmanager
    def pause(self, doing: str) -> Iterator[None]:
        """`status` for what is no work on the steps: its time does not change their rate."""
        start = time.monotonic()
        with self.status(doing):
            yield
        self.pause_seconds[doing] = time.monotonic() - start
        self.start += self.pause_seconds[doing]

    def seconds_left(self) -> float | None:
        """How long the rest takes, or None where nothing is known yet: in the first seconds."""
        if self.done == self.first or time.monotonic() - self.start < KNOWN_AFTER:
            return None
        return self._left()[0]

    def rate(self) -> float | None:
        """Steps a second, less pauses; None before the first."""
        if self.done == self.first:
            return None
        return (self.done - self.first) / max(time.monotonic() - self.start, 1e-9)

    def write_left(self, write: Callable[[float], str]) -> str:
        """The time left, its seconds written by `write`; "over" it where a pause to come has no known length."""
        if not self.rate():
            return "?"
        seconds, unknown = self._left()
        return "over " * unknown + write(seconds)

    def _left(self) -> tuple[float, bool]:
        """The seconds left, and whether pauses to come are missing in them."""
        seconds, unknown = (self.total - self.done) / (self.rate() or math.inf), False
        for name, every in self.pauses.items():
            if every and self.done < self.total:  # after the last step too, which need not be a multiple
                count = (self.total - 1) // every - self.done // every + 1
                seconds += count * self.pause_seconds.get(name, 0)
                unknown |= name not in self.pause_seconds
        return seconds, unknown

    def _figures(self) -> list[str]:
        return [f"{name} {value:.4g}" for name, value in self.figures.items()]

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.close()


class _Bar(tqdm):
    """The bar of a Progress, which knows the rate and the time left."""

    def __init__(self, progress: Progress, desc: str):
        self.progress = progress
        shown = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{left}, {rate_fmt}{postfix}]"
        super().__init__(desc=desc, total=progress.total, initial=progress.done, unit=progress.unit, bar_format=shown)

    @property
    def format_dict(self):
        left = self.progress.write_left(self.format_interval)
        return {**super().format_dict, "rate": self.progress.rate(), "left": left}
