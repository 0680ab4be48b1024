"""The paper's training and what would change in it, on the toy world: every encoder, every recipe, several seeds."""

import csv
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from ml_collections import ConfigDict
from scipy import stats

from encoders import ENCODERS
from jaxsd import evaluation, metrics
from jaxsd.atomic import replacing
from jaxsd.report.plots import COLOURS, STYLE
from jaxsd.report.tables import Table
from jaxsd.settings import load_config
from jaxsd.subjects import load_subjects, open_split
from jaxsd.toy import scores
from jaxsd.toy.recipe import train

# By name: the recipe of configs/toy.py, and what is changed in it.
RECIPES: dict[str, tuple[str, dict[str, object]]] = {
    "bos": ("paper", {"text_pooling": "bos"}),
    "eos": ("paper", {"text_pooling": "eos"}),
    "bos+temperature": ("paper", {"text_pooling": "bos", "learned_temperature": True}),
    "eos+temperature": ("paper", {"text_pooling": "eos", "learned_temperature": True}),
    "aligned": ("aligned", {}),
    "aligned-no-sequence": ("aligned", {"weights.sequence": 0.0}),
    "aligned-no-warmup": ("aligned", {"warmup": 0}),
    "denoise": ("denoise", {}),
}
# What two recipes differ in: the one with it, and the one without.
CONTRASTS = {
    "text pooled at its end, not its start": ("eos", "bos"),
    "a temperature": ("eos+temperature", "eos"),
    "a temperature, with text pooled at its start": ("bos+temperature", "bos"),
    "the sequence term": ("aligned", "aligned-no-sequence"),
    "warm-up": ("aligned", "aligned-no-warmup"),
    "denoising in place of alignment": ("denoise", "aligned"),
}


@dataclass(frozen=True)
class Column:
    """A figure of a run in the tables: its head, where it is in the results of an evaluation, and how it is written.

    `comparable`: whether it means the same under every recipe; what is against the text target does not.
    """

    head: str
    read: Callable[[evaluation.Results, dict[str, float]], float]
    form: str
    comparable: bool = True


COLUMNS = (
    Column("TCEOCS_t - 2 ln M", lambda found, one: one["TCEOCS_t"] - found["bounds"]["chance"], "{:.4f}", False),
    Column("TCEOCS_i - 2 ln M", lambda found, one: one["TCEOCS_i"] - found["bounds"]["chance"], "{:.4f}"),
    Column("μ(R²)_t", lambda _, one: one["mu(R2)_t"], "{:.3g}", False),
    Column("μ(R²)_rt, varying", lambda _, one: one["mu(R2 varying)_rt"], "{:.3g}"),
    Column("cosine_rt", lambda _, one: one["cosine_rt"], "{:.3f}"),
    Column("recall@10 a→t, %", lambda _, one: 100 * one["R@10_a2t"], "{:.1f}"),
    Column("recall@10 a→i, %", lambda _, one: 100 * one["R@10_a2i"], "{:.1f}"),
    Column("denoising gain", lambda _, one: one["denoising gain"], "{:.4f}"),
    Column("right thing, %", lambda _, one: 100 * one.get("thing", np.nan), "{:.0f}"),
)


@dataclass(frozen=True)
class Run:
    """A line of the file of runs: what was run, a digest of its config, the size of the test split, and COLUMNS."""

    recipe: str
    encoder: str
    seed: int
    config: str
    size: int
    figures: tuple[float, ...]

    @property
    def key(self) -> tuple[str, str, int]:
        return self.recipe, self.encoder, self.seed


Runs = dict[tuple[str, str, int], Run]  # by recipe, encoder and seed
HEAD = ("recipe", "encoder", "seed", "config", "size", *(column.head for column in COLUMNS))


def reproduce(
    folder: Path,
    *,
    encoders: Sequence[str],
    recipes: Sequence[str],
    seeds: int,
    pictures: int,
    overrides: Sequence[str] = (),
    section: Path | None = None,
) -> Path:
    """Train and evaluate every encoder by every recipe `seeds` times, each into a folder of its own; the section.

    Writes the section in Markdown, by default `folder`/reproduction.md, with a PNG beside it and, after each run, a CSV
    with a line for it. What has a line is not run again and is in the section too, a run that was stopped goes on.
    `overrides` (--config.KEY=VALUE) are of every run. Raises ValueError where a line is of another config.
    """
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; allowed: 1 or more")
    section = section or folder / "reproduction.md"
    section.parent.mkdir(parents=True, exist_ok=True)
    table, figure = (section.with_suffix(suffix) for suffix in (".csv", ".png"))
    runs = _read(table)
    wanted = [(recipe, encoder, seed) for seed in range(seeds) for recipe in recipes for encoder in encoders]
    configs = {key: _config(*key, overrides) for key in wanted}
    for key, config in configs.items():
        if key in runs and runs[key].config != _digest(config, pictures):
            raise ValueError(f"{table}: {', '.join(map(str, key))} was run with another config; choose another file")
    for place, (key, config) in enumerate(configs.items(), 1):
        if key not in runs:
            recipe, encoder, seed = key
            print(f"{place}/{len(wanted)}  {recipe}, {encoder}, seed {seed}", flush=True)
            size, figures = _run(folder / recipe / f"{encoder}-{seed}", config, pictures)
            runs[key] = Run(*key, _digest(config, pictures), size, figures)
            _write(table, runs)
            jax.clear_caches()  # the next run compiles, or reads, programs of its own
    if len(sizes := {run.size for run in runs.values()}) > 1:
        raise ValueError(f"{table} has runs on splits of {' and '.join(map(str, sorted(sizes)))} rows; it must be one")
    runs = {key: runs[key] for key in sorted(runs, key=_place)}
    with matplotlib.rc_context(STYLE), replacing(figure) as part:
        _figure(runs).savefig(part)
    with replacing(section) as part:
        part.write_text(_section(runs, figure.name))
    return section


def _place(key: tuple[str, str, int]) -> tuple[int, int, int]:
    recipe, encoder, seed = key
    return list(RECIPES).index(recipe), list(ENCODERS).index(encoder), seed


def _config(recipe: str, encoder: str, seed: int, overrides: Sequence[str]) -> ConfigDict:
    base, changes = RECIPES[recipe]
    changes = {"encoder": encoder, "seed": seed, **changes}
    config = load_config(f"toy.py:{base}", [*(f"--config.{key}={value}" for key, value in changes.items()), *overrides])
    config.warmup = min(config.warmup, config.steps // 10)
    config.eval_every = config.steps
    return config


def _digest(config: ConfigDict, pictures: int) -> str:
    return hashlib.sha256(f"{config.to_json(sort_keys=True)} {pictures}".encode()).hexdigest()[:12]


def _run(folder: Path, config: ConfigDict, pictures: int) -> tuple[int, tuple[float, ...]]:
    """The size of the test split and the run's figures on it. Raises ValueError where `folder` holds another run."""
    train(config, folder)
    data = Path(config.data.folder) / "test"
    scores.make_data(data, "test", config.data.held_out)
    split = open_split(data)
    found = evaluation.evaluate(
        load_subjects([str(folder)]),
        split,
        text_pooling=config.text_pooling,
        references=(),
        **scores.about(split, pictures),
    )
    (entry,) = found["encoders"].values()
    return len(split), tuple(column.read(found, entry["figures"]) for column in COLUMNS)


def _read(table: Path) -> Runs:
    """The lines of the file of runs. Raises ValueError where it is another file."""
    if not table.is_file():
        return {}
    with table.open(newline="") as file:
        head, *lines = list(csv.reader(file)) or [()]
    if tuple(head) != HEAD:
        raise ValueError(f"{table} is not the file of runs that this writes; choose another file")
    runs = [
        Run(recipe, encoder, int(seed), config, int(size), tuple(map(float, figures)))
        for recipe, encoder, seed, config, size, *figures in lines
    ]
    return {run.key: run for run in runs}


def _write(table: Path, runs: Runs):
    with replacing(table) as part, part.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEAD)
        writer.writerows((*run.key, run.config, run.size, *run.figures) for run in runs.values())


def _mean(values: Iterable[float], form: str) -> str:
    """The mean with the half width of its 95 % interval by Student's t."""
    values = np.array([value for value in values if not np.isnan(value)])
    if not len(values):
        return ""
    if len(values) == 1 or not np.isfinite(values).all():
        return form.format(values.mean())
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{form.format(values.mean())} ± {form.format(half)}"


def _by_run(runs: Runs) -> Table:
    seeds = len({seed for _, _, seed in runs})
    rows = []
    for recipe, encoder in dict.fromkeys((recipe, encoder) for recipe, encoder, _ in runs):
        figures = [run.figures for key, run in runs.items() if key[:2] == (recipe, encoder)]
        rows.append((recipe, encoder, *map(_mean, zip(*figures, strict=True), [column.form for column in COLUMNS])))
    note = (
        f"Mean over {seeds} seeds ± half of its 95 % interval (Student's t). TCEOCS_t and μ(R²)_t are against the text "
        "target of the recipe, the rest against the captions' own embeddings."
    )
    return Table("Every recipe and encoder", note, ("recipe", "encoder", *(column.head for column in COLUMNS)), rows)


def _by_difference(runs: Runs) -> Table:
    chosen = [place for place, column in enumerate(COLUMNS) if column.comparable]
    rows = []
    for name, (with_it, without) in CONTRASTS.items():
        pairs = [key[1:] for key in runs if key[0] == with_it and (without, *key[1:]) in runs]
        if pairs:
            both = [(runs[with_it, *pair].figures, runs[without, *pair].figures) for pair in pairs]
            gains = np.array([np.subtract(*figures) for figures in both])
            rows.append((name, *(_mean(gains[:, place], COLUMNS[place].form) for place in chosen)))
    note = (
        "What each change alone does: mean difference over all pairs of the same encoder and seed ± half of its 95 % "
        "interval (Student's t over the pairs)."
    )
    return Table("What matters", note, ("", *(COLUMNS[place].head for place in chosen)), rows)


def _section(runs: Runs, figure: str) -> str:
    size = next(iter(runs.values())).size
    parts = [
        f"Evaluated on {size:,} held-out sounds of the toy world at once: chance is TCEOCS 2 ln M = "
        f"{metrics.chance(size):.4f}, the least without a temperature {metrics.floor(size):.4f}, and recall@10 "
        f"{1_000 / size:.1f} %.\n",
        f"![Every run: a row a recipe, a colour an encoder, a dot a seed]({figure})\n",
    ]
    tables = (_by_run(runs), _by_difference(runs))
    parts += [f"### {table.title}\n\n{table.note}\n\n{table.to_markdown()}" for table in tables if table.rows]
    return "\n".join(parts)


def _figure(runs: Runs) -> Figure:
    """A panel a column that is comparable: a row a recipe, a colour an encoder, a dot a seed."""
    recipes, encoders = (list(dict.fromkeys(key[place] for key in runs)) for place in (0, 1))
    values = np.array([run.figures for run in runs.values()])
    chosen = [p for p, column in enumerate(COLUMNS) if column.comparable and np.isfinite(values[:, p]).all()]
    figure = Figure(figsize=(2.2 * len(chosen) + 1.5, 0.45 * len(recipes) + 1.2), layout="constrained", dpi=120)
    axes = figure.subplots(1, len(chosen), sharey=True, squeeze=False)[0]
    for axis, place in zip(axes, chosen, strict=True):
        for which, (encoder, colour) in enumerate(zip(encoders, COLOURS, strict=False)):
            dots = [(one.figures[place], recipes.index(one.recipe)) for one in runs.values() if one.encoder == encoder]
            x, y = np.array(dots).T
            axis.plot(x, y + (which - (len(encoders) - 1) / 2) * 0.12, ".", color=colour, label=encoder)
        axis.set_title(COLUMNS[place].head, loc="left")
        axis.grid(axis="y", color="0.92")
    axes[0].set_yticks(range(len(recipes)), recipes)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(encoders))
    return figure
