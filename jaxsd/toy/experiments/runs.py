"""Many small trainings on the toy world, each evaluated once: what experiments are made of."""

import csv
import hashlib
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
from scipy import stats

from jaxsd.config import TrainConfig, load_config
from jaxsd.evaluation import metrics
from jaxsd.evaluation.inputs import EvaluationSplit, open_evaluation_split
from jaxsd.evaluation.report.tables import Table
from jaxsd.runtime.files import lock_folder, replacing
from jaxsd.runtime.progress import counted
from jaxsd.toy.maker import make_split
from jaxsd.training.train import count_steps, train, validate_config

Key = tuple[str, str, int]  # recipe, encoder, seed
KEY = ("recipe", "encoder", "seed")
SECONDS_A_STEP = (0.2, 0.5)  # of the recipes of configs/toy.py, as docs/recipes-runs.md has measured them


@dataclass(frozen=True)
class Run:
    """A line of the file of runs: a digest of what was asked for, the size of the test split, figures by name."""

    asked: str
    size: int
    figures: dict[str, float]


Runs = dict[Key, Run]


def configure(recipe: str, changes: Mapping, key: Key, overrides: Sequence[str]) -> TrainConfig:
    """The config of a run: a recipe of configs/toy.py with `changes`, then `overrides` (--config.KEY=VALUE)."""
    changes = {"encoder": key[1], "seed": key[2], **changes}
    config = load_config(
        f"toy.py:{recipe}", [*(f"--config.{name}={value}" for name, value in changes.items()), *overrides]
    )
    return replace(config, warmup=min(config.warmup, config.steps // 10), eval_every=config.steps, sample_images=0)


def run_all(
    folder: Path,
    table: Path,
    configs: Mapping[Key, TrainConfig],
    names: Sequence[str],
    measure: Callable[[Path, TrainConfig, EvaluationSplit], Sequence[float]],
    *,
    asked: str,
    dry_run: bool = False,
) -> Runs:
    """Train and measure every run that the file of runs has no line of.

    A run gets its line as soon as it is measured. What has a line is not run again, on another machine neither, and a
    run that was stopped goes on.

    Args:
        folder: gets a folder a run.
        table: the CSV file of runs.
        configs: what to train.
        names: what the figures are called.
        measure: `measure(run, config, test split)` gives the figures of a run.
        asked: what the figures depend on besides the config.
        dry_run: only say what would be run.

    Returns:
        All lines of the file.

    Raises:
        ValueError: a line was made with another config, or on a split of another size, it is another file, or another
            process fills `folder`.
    """
    for config in configs.values():
        validate_config(config)
        count_steps(config, config.data.train_size)
    with nullcontext() if dry_run else lock_folder(folder):
        return _run_left(folder, table, configs, names, measure, asked=asked, dry_run=dry_run)


def _run_left(folder: Path, table: Path, configs, names, measure, *, asked: str, dry_run: bool) -> Runs:
    runs = _read_runs(table, names)
    digests = {key: _run_digest(config, asked) for key, config in configs.items()}
    for key, digest in digests.items():
        if key in runs and runs[key].asked != digest:
            raise ValueError(f"{table}: {', '.join(map(str, key))} was run with another config; choose another file")
    left = {key: config for key, config in configs.items() if key not in runs}
    print(_announcement(len(configs), list(left.values())), flush=True)
    if dry_run:
        return runs
    table.parent.mkdir(parents=True, exist_ok=True)
    for number, (key, config) in enumerate(left.items(), 1):
        recipe, encoder, seed = key
        print(f"{number}/{len(left)}  {recipe}, {encoder}, seed {seed}", flush=True)
        run = folder / recipe / f"{encoder}-{seed}"
        data, held_out = Path(config.data.folder), config.data.held_out
        for name, size in (("train", config.data.train_size), ("validation", held_out), ("test", held_out)):
            make_split(data / name, name, size)
        train(config, run)
        split = open_evaluation_split(data / "test")
        figures = dict(zip(names, map(float, measure(run, config, split)), strict=True))
        runs[key] = Run(digests[key], len(split), figures)
        _write_runs(table, names, runs)
        jax.clear_caches()  # the next run has programs of its own
    if len(sizes := {run.size for run in runs.values()}) > 1:
        several = " and ".join(map(str, sorted(sizes)))
        raise ValueError(f"{table} has runs on splits of {several} examples; all must be on one")
    return runs


def _announcement(count: int, left: Sequence[TrainConfig]) -> str:
    """How many trainings there are to do, and how long they take."""
    steps = sum(config.steps for config in left)
    low, high = (steps * seconds / 3600 for seconds in SECONDS_A_STEP)
    return (
        f"{counted(count, 'training')}, {len(left)} of them to do: {counted(steps, 'step')},\n"
        f"about {low:.1f} to {high:.1f} hours on two CPU cores, and the evaluations"
    )


def _run_digest(config: TrainConfig, asked: str) -> str:
    return hashlib.sha256(f"{config.to_json()} {asked}".encode()).hexdigest()[:12]


def _read_runs(table: Path, names: Sequence[str]) -> Runs:
    """The lines of the file of runs. Raises ValueError where it is another file."""
    if not table.is_file():
        return {}
    with table.open(newline="") as file:
        head, *lines = list(csv.reader(file)) or [[]]
    if tuple(head) != (*KEY, "asked", "size", *names):
        raise ValueError(f"{table} is not the file of runs that this writes; choose another file")
    return {
        (recipe, encoder, int(seed)): Run(asked, int(size), dict(zip(names, map(float, figures), strict=True)))
        for recipe, encoder, seed, asked, size, *figures in lines
    }


def _write_runs(table: Path, names: Sequence[str], runs: Runs):
    with replacing(table) as part, part.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*KEY, "asked", "size", *names))
        writer.writerows((*key, run.asked, run.size, *run.figures.values()) for key, run in runs.items())


def mean(values: Iterable[float], form: str) -> str:
    """The mean with the half width of its 95 % interval by Student's t."""
    values = np.array([value for value in values if not np.isnan(value)])
    if not len(values):
        return ""
    if len(values) == 1 or not np.isfinite(values).all():
        return form.format(values.mean())
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{form.format(values.mean())} ± {form.format(half)}"


def share_cell(share: float, count: int, form: str = "{:.0f}") -> str:
    """A share of `count` trials in per cent, with its 95 % interval (Wilson's)."""
    low, high = metrics.wilson(share, count)
    return f"{form.format(100 * share)} [{100 * low:.0f}, {100 * high:.0f}]"


def wrap(text: str) -> str:
    """A paragraph of Markdown in lines of at most 120 characters."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False) + "\n"


def write_table(table: Table) -> str:
    """A table as a section of a Markdown file."""
    return f"### {table.title}\n\n{wrap(table.note)}\n{table.to_markdown()}"
