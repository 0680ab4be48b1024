"""Sweeps: one argument through a range of values, the rest the same."""

import math
from dataclasses import dataclass

from jaxsd.runtime.progress import counted

MOST_VALUES = 100
# What can be swept, and what its values must be.
SWEPT = {
    "alpha": ("0 to 1", lambda value: 0 <= value <= 1),
    "guidance": ("finite numbers", math.isfinite),
    "strength": ("above 0, up to 1", lambda value: 0 < value <= 1),
    "steps": ("whole numbers from 1", lambda value: value >= 1 and value == int(value)),
}


@dataclass(frozen=True)
class Sweep:
    """An argument, and the values that it takes in turn."""

    name: str
    values: tuple[float, ...]

    def labels(self) -> list[str]:
        return [f"{self.name} {value:g}" for value in self.values]


def parse_sweep(text: str) -> Sweep:
    """`alpha=0:1:0.1` as the values from 0 to 1, both included, 0.1 apart. Raises ValueError where it is no sweep."""
    name, _, span = text.partition("=")
    form = f"--sweep is {text!r}; allowed: NAME=FIRST:LAST:STEP with NAME one of {', '.join(SWEPT)}, as alpha=0:1:0.1"
    if name not in SWEPT:
        raise ValueError(form)
    try:
        first, last, step = map(float, span.split(":"))
        count = math.floor((last - first) / step + 1e-6) + 1
    except (ValueError, ZeroDivisionError, OverflowError):  # of NaN and infinity too
        raise ValueError(form) from None
    if not 2 <= count <= MOST_VALUES:
        raise ValueError(f"--sweep {text} has {counted(max(count, 0), 'value')}; allowed: 2 to {MOST_VALUES}")
    values = [round(first + index * step, 9) for index in range(count)]
    allowed, fits = SWEPT[name]
    if not all(map(fits, values)):
        raise ValueError(f"--sweep {text} has values that {name} cannot have; allowed: {allowed}")
    return Sweep(name, tuple(int(value) if name == "steps" else value for value in values))
