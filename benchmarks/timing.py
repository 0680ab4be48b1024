"""How everything here is timed."""

import statistics
import time
from collections.abc import Callable


def in_turns(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each of `runs`, called in turns so that the machine's drift meets all.

    A turn is two calls, of which the second counts, as in a loop: what another one's turn took away, memory and caches,
    is there again.
    """
    times = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            run()
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}
