"""A progress bar with rate and time left on a terminal, plain lines otherwise."""

import sys
import time

from tqdm import tqdm

LINE_EVERY = 15.0  # seconds between plain lines


class Progress:
    """Counts the steps of one job. `update` sets the figures shown beside the count, `note` prints a line for good.

    Nothing is printed where `shown` is false: several processes at one job need one bar.
    """

    def __init__(self, name: str, total: int, done: int = 0, unit: str = "step", shown: bool = True):
        self.name, self.total, self.first, self.unit, self.shown = name, total, done, unit, shown
        self.figures: dict[str, float] = {}

    def __enter__(self):
        self.start = self.last = time.monotonic()
        self.done = self.first
        self.bar = None
        if self.shown and sys.stderr.isatty():
            self.bar = tqdm(desc=self.name, total=self.total, initial=self.first, unit=self.unit)
        return self

    def advance(self, done: int):
        if self.bar is not None:
            self.bar.update(done - self.done)
        self.done = done
        now = time.monotonic()
        if self.shown and self.bar is None and (now - self.last >= LINE_EVERY or done == self.total):
            self.last = now
            rate = (done - self.first) / max(now - self.start, 1e-9)
            left = (self.total - done) / max(rate, 1e-9)
            line = f"{self.name} {done}/{self.total} {self.unit}s, {rate:.2f}/s, {left:.0f} s left{self._text()}"
            print(line, file=sys.stderr, flush=True)

    def update(self, figures: dict[str, float]):
        self.figures.update(figures)
        if self.bar is not None:
            self.bar.set_postfix_str(self._text(), refresh=False)

    def note(self, text: str):
        if self.shown:
            tqdm.write(f"{self.name} {self.done}/{self.total}: {text}", file=sys.stderr)

    def _text(self):
        return "".join(f", {name} {value:.4g}" for name, value in self.figures.items())

    def __exit__(self, *_):
        if self.bar is not None:
            self.bar.close()
