"""The paper's training and what would change in it, on the toy world: every encoder, every recipe, several seeds."""

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from jaxsd import evaluation, report
from jaxsd.atomic import replacing
from jaxsd.report.plots import COLOURS, STYLE
from jaxsd.report.tables import Table
from jaxsd.settings import load_config
from jaxsd.subjects import load_subjects, open_split
from jaxsd.toy import scores
from jaxsd.toy.recipe import train
from jaxsd.training import claim

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
Runs = dict[tuple[str, str, int], list[float]]  # of a recipe, an encoder and a seed: what COLUMNS read


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

    A run that is finished is not done again, one that was stopped goes on. `overrides` (--config.KEY=VALUE) are of
    every run. Writes runs.csv and the section in Markdown, by default `folder`/reproduction.md, with a PNG beside it.
    """
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; allowed: 1 or more")
    runs: Runs = {}
    first = None
    wanted = [(recipe, encoder, seed) for recipe in recipes for encoder in encoders for seed in range(seeds)]
    for place, (recipe, encoder, seed) in enumerate(wanted):
        print(f"{place + 1}/{len(wanted)}  {recipe}, {encoder}, seed {seed}", flush=True)
        found = _run(folder / recipe / f"{encoder}-{seed}", recipe, encoder, seed, pictures, overrides)
        first = first or found
        if found["data"]["identity"] != first["data"]["identity"]:
            raise ValueError(f"{folder} holds evaluations on different data; choose another --out")
        (entry,) = found["encoders"].values()
        runs[recipe, encoder, seed] = [column.read(found, entry["figures"]) for column in COLUMNS]
    section = section or folder / "reproduction.md"
    section.parent.mkdir(parents=True, exist_ok=True)
    figure = section.with_suffix(".png")
    with replacing(folder / "runs.csv") as part, part.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("recipe", "encoder", "seed", *(column.head for column in COLUMNS)))
        writer.writerows((*key, *values) for key, values in runs.items())
    with matplotlib.rc_context(STYLE), replacing(figure) as part:
        _figure(runs).savefig(part)
    with replacing(section) as part:
        part.write_text(_section(runs, first, figure.name))
    return section


def _run(folder: Path, recipe: str, encoder: str, seed: int, pictures: int, overrides) -> evaluation.Results:
    """The evaluation of one run on the test split, from its results.json where it is finished.

    Raises ValueError where `folder` holds a run of another config.
    """
    base, changes = RECIPES[recipe]
    changes = {"encoder": encoder, "seed": seed, **changes}
    config = load_config(f"toy.py:{base}", [*(f"--config.{key}={value}" for key, value in changes.items()), *overrides])
    config.warmup = min(config.warmup, config.steps // 10)
    config.eval_every = config.steps
    claim(folder, config, write=False)
    done = folder / "evaluation" / "results.json"
    if done.is_file():
        return report.read(done)
    train(config, folder)
    data = Path(config.data.folder) / "test"
    scores.make_data(data, "test", config.data.held_out)
    split = open_split(data)
    found = evaluation.evaluate(
        load_subjects([str(folder)], before=True),
        split,
        text_pooling=config.text_pooling,
        references=(),
        **scores.about(split, pictures),
    )
    report.write(found, done.parent)
    return found


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
        figures = [values for key, values in runs.items() if key[:2] == (recipe, encoder)]
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
            gains = np.array([np.subtract(runs[with_it, *pair], runs[without, *pair]) for pair in pairs])
            rows.append((name, *(_mean(gains[:, place], COLUMNS[place].form) for place in chosen)))
    note = (
        "What each change alone does: mean difference over all pairs of the same encoder and seed ± half of its 95 % "
        "interval (Student's t over the pairs)."
    )
    return Table("What matters", note, ("", *(COLUMNS[place].head for place in chosen)), rows)


def _section(runs: Runs, found: evaluation.Results, figure: str) -> str:
    data, bounds = found["data"], found["bounds"]
    parts = [
        f"Evaluated on {data['size']:,} held-out sounds of the toy world at once (SHA-256 `{data['identity'][:16]}`): "
        f"chance is TCEOCS 2 ln M = {bounds['chance']:.4f}, the least without a temperature {bounds['floor']:.4f}, and "
        f"recall@10 {1_000 / data['size']:.1f} %.\n",
        f"![Every run: a row a recipe, a colour an encoder, a dot a seed]({figure})\n",
    ]
    tables = (_by_run(runs), _by_difference(runs))
    parts += [f"### {table.title}\n\n{table.note}\n\n{table.to_markdown()}" for table in tables if table.rows]
    return "\n".join(parts)


def _figure(runs: Runs) -> Figure:
    """A panel a column that is comparable: a row a recipe, a colour an encoder, a dot a seed."""
    recipes, encoders = (list(dict.fromkeys(key[place] for key in runs)) for place in (0, 1))
    values = np.array(list(runs.values()))
    chosen = [p for p, column in enumerate(COLUMNS) if column.comparable and np.isfinite(values[:, p]).all()]
    figure = Figure(figsize=(2.2 * len(chosen) + 1.5, 0.45 * len(recipes) + 1.2), layout="constrained", dpi=120)
    axes = figure.subplots(1, len(chosen), sharey=True, squeeze=False)[0]
    for axis, place in zip(axes, chosen, strict=True):
        for which, (encoder, colour) in enumerate(zip(encoders, COLOURS, strict=False)):
            dots = [(one[place], recipes.index(key[0])) for key, one in runs.items() if key[1] == encoder]
            x, y = np.array(dots).T
            axis.plot(x, y + (which - (len(encoders) - 1) / 2) * 0.12, ".", color=colour, label=encoder)
        axis.set_title(COLUMNS[place].head, loc="left")
        axis.grid(axis="y", color="0.92")
    axes[0].set_yticks(range(len(recipes)), recipes)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(encoders))
    return figure
