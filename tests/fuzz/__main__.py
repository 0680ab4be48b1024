"""Fuzzes what reads files: python -m tests.fuzz [--minutes 2] [--cases 10000] [--seed 0] [--targets sounds images]

Every case is a function of the seed, the target and its number, so that the same command does the same again; another
seed looks elsewhere. A failure is printed with these; its input is kept.
"""

import multiprocessing
import queue
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from jaxsd.runtime import cli
from tests.fuzz.cases import Cases, work
from tests.fuzz.targets import TARGETS

LIMIT = 10.0  # seconds of one case
STARTING = 120.0  # seconds until a process has imported all and written its samples


def fuzz(target: str, seed: int, seconds: float, most: int, keep: Path) -> tuple[Counter, list[str]]:
    """Run cases of a target in another process for so long, or so many, but at least one.

    Returns counts and failures.
    """
    context = multiprocessing.get_context("spawn")
    counts, failures = Counter(), []
    end, number, process, doubted = time.monotonic() + seconds, 0, None, set()
    while number < most and (time.monotonic() < end or not counts):
        if process is None:
            answers = context.Queue()
            process = context.Process(target=work, args=(target, seed, number, answers), daemon=True)
            process.start()
            limit = STARTING
        asked = time.monotonic()
        outcome = "hangs"
        while time.monotonic() - asked < limit:
            try:
                number, outcome = answers.get(timeout=0.5)
                break
            except queue.Empty:
                if not process.is_alive():
                    outcome = f"ends the process (exit code {process.exitcode})"
                    break
        limit = LIMIT
        if outcome is None:  # begun
            continue
        if outcome == "hangs" and number not in doubted:  # or the machine is busy
            doubted.add(number)
            process.kill()
            process = None
            continue
        counts[outcome if outcome in ("read", "refused") else "failed"] += 1
        if outcome not in ("read", "refused"):
            failures.append(f"{target}, seed {seed}, case {number}: {outcome}")
            print(failures[-1], flush=True)
            keep_input(target, seed, number, keep)
        if outcome == "hangs" or outcome.startswith("ends the process"):
            process.kill()
            process = None
        number += 1
    if process is not None:
        process.kill()
    return counts, failures


def keep_input(target: str, seed: int, number: int, keep: Path):
    with tempfile.TemporaryDirectory() as folder:
        path = Cases(target, seed, Path(folder)).write(number)
        keep.mkdir(parents=True, exist_ok=True)
        path.rename(keep / f"{target.replace(' ', '-')}-{seed}-{number}-{path.name}")


def main() -> int:
    parser = cli.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="for all targets together (2)")
    parser.add_argument("--cases", type=int, default=10_000, help="of a target, at most (10000)")
    parser.add_argument("--seed", type=int, default=0, help="(0)")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--case", type=int, help="run this one case of one target, here, with its traceback")
    parser.add_argument("--keep", type=Path, default=Path("out/fuzz"), help="folder of the inputs that fail (out/fuzz)")
    arguments = parser.parse_args()
    seed = arguments.seed
    if arguments.case is not None:
        with tempfile.TemporaryDirectory() as folder:
            print(Cases(arguments.targets[0], seed, Path(folder)).run(arguments.case, catch=False))
        return 0
    print(f"seed {seed}")
    failures = []
    print(f"{'target':<16} {'cases':>8} {'read':>8} {'refused':>8} {'failed':>8}")
    for target in arguments.targets:
        seconds = 60 * arguments.minutes / len(arguments.targets)
        counts, failed = fuzz(target, seed, seconds, arguments.cases, arguments.keep)
        failures += failed
        numbers = (counts.total(), counts["read"], counts["refused"], counts["failed"])
        print(f"{target:<16} " + " ".join(f"{number:>8}" for number in numbers), flush=True)
    if failures:
        print(f"{len(failures)} failures; their inputs are in {arguments.keep}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
