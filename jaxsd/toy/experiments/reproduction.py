"""The paper's training and what would change in it, on the toy world: every encoder, every recipe, several seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from encoders import ENCODERS
from jaxsd.config import TrainConfig
from jaxsd.evaluation import metrics
from jaxsd.evaluation.evaluate import check_image_count, evaluate
from jaxsd.evaluation.inputs import EvaluationSplit, load_evaluated_encoders
from jaxsd.evaluation.report.plots import PALETTE, STYLE
from jaxsd.evaluation.report.tables import Table
from jaxsd.evaluation.results import Results
from jaxsd.runtime.files import replacing
from jaxsd.toy import maker
from jaxsd.toy.experiments.runs import Key, Runs, configure, mean, run_all, wrap, write_table

# As the recipes have it at full size.
ADAMW: dict[str, object] = {"optimizer": "adamw", "learning_rate": 5e-4, "weight_decay": 0.05}
# What is trained, by name: the recipe of configs/toy.py, and the values that are changed in it.
VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    "bos": ("paper", {"text_pooling": "bos"}),
    "eos": ("paper", {"text_pooling": "eos"}),
    "bos+temperature": ("paper", {"text_pooling": "bos", "learned_temperature": True}),
    "eos+temperature": ("paper", {"text_pooling": "eos", "learned_temperature": True}),
    "aligned": ("aligned", ADAMW),
    "aligned-no-sequence": ("aligned", ADAMW | {"weights.sequence": 0.0}),
    "aligned-no-warmup": ("aligned", ADAMW | {"warmup": 0}),
    "denoise": ("denoise", ADAMW),
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
REFERENCE = "gemini"  # the encoder that the others are compared with


@dataclass(frozen=True)
class Column:
    """A figure of a run in the tables: its head, where it is in the results of an evaluation, and how it is written.

    `comparable`: whether it means the same under every recipe; what is against the text target does not.
    `linear_to`: how far its axis in the figure is linear before it is logarithmic; None: all of it is linear.
    """

    head: str
    read: Callable[[Results, dict[str, float]], float]
    form: str
    comparable: bool = True
    linear_to: float | None = None


RUN_COLUMNS = (
    Column("TCEOCS_t - 2 ln M", lambda found, one: one["TCEOCS_t"] - found["bounds"]["chance"], "{:.4f}", False),
    Column("TCEOCS_i - 2 ln M", lambda found, one: one["TCEOCS_i"] - found["bounds"]["chance"], "{:.4f}"),
    Column("μ(R²)_t", lambda _, one: one["mu(R2)_t"], "{:.3g}", False),
    Column("μ(R²)_rt, varying", lambda _, one: one["mu(R2 varying)_rt"], "{:.3g}", linear_to=1.0),
    Column("cosine_rt", lambda _, one: one["cosine_rt"], "{:.3f}"),
    Column("recall@10 a→t, %", lambda _, one: 100 * one["R@10_a2t"], "{:.1f}"),
    Column("recall@10 a→i, %", lambda _, one: 100 * one["R@10_a2i"], "{:.1f}"),
    Column("denoising gain", lambda _, one: one["denoising gain"], "{:.4f}", linear_to=0.01),
    Column("right class, %", lambda _, one: 100 * one.get("class", np.nan), "{:.0f}"),
)


def reproduce(
    folder: Path,
    *,
    encoders: Sequence[str],
    recipes: Sequence[str],
    seeds: int,
    images: int,
    overrides: Sequence[str] = (),
    section: Path | None = None,
    dry_run: bool = False,
) -> Path | None:
    """Train every encoder by every variant of the recipes, several times each, and evaluate every run.

    Args:
        folder: holds the folders of the runs.
        encoders: names of encoders.
        recipes: names of VARIANTS.
        seeds: how often every encoder is trained by every variant.
        images: how many images the judge sees of each run, 0 for none.
        overrides: `--config.KEY=VALUE` of every run.
        section: the Markdown file to write, with a PNG and the CSV file of runs beside it (see
            `jaxsd.toy.experiments.runs.run_all`), all of whose lines it shows; by default `folder`/reproduction.md.
        dry_run: only say what would be trained.

    Returns:
        The path of the Markdown file; None of a dry run.

    Raises:
        ValueError: there are no seeds, a config cannot be trained, or there are not so many held-out sounds as images.
    """
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; allowed: 1 or more")
    section = section or folder / "reproduction.md"
    figure = section.with_suffix(".png")
    keys = [(recipe, encoder, seed) for seed in range(seeds) for recipe in recipes for encoder in encoders]
    configs = {key: configure(*VARIANTS[key[0]], key, overrides) for key in keys}
    check_image_count(images, configs[keys[0]].data.held_out)
    runs = run_all(
        folder,
        section.with_suffix(".csv"),
        configs,
        [column.head for column in RUN_COLUMNS],
        partial(_measure_variant, images=images),
        asked=f"{images} pictures",
        dry_run=dry_run,
    )
    if dry_run:
        return None
    runs = {key: runs[key] for key in sorted(runs, key=_order)}
    with matplotlib.rc_context(STYLE), replacing(figure) as part:
        _reproduction_plot(runs).savefig(part)
    with replacing(section) as part:
        part.write_text(_reproduction_section(runs, figure.name))
    return section


def _order(key: Key) -> tuple[int, int, int]:
    recipe, encoder, seed = key
    return list(VARIANTS).index(recipe), list(ENCODERS).index(encoder), seed


def _measure_variant(run: Path, config: TrainConfig, split: EvaluationSplit, *, images: int) -> list[float]:
    about = maker.evaluation_options(split, images)
    subjects = load_evaluated_encoders([str(run)])
    found = evaluate(subjects, split, text_pooling=config.text_pooling, references=(), **about)
    (entry,) = found["encoders"].values()
    return [column.read(found, entry["figures"]) for column in RUN_COLUMNS]


def _every_run(runs: Runs) -> Table:
    rows = []
    for recipe, encoder in dict.fromkeys(key[:2] for key in runs):
        figures = [run.figures for key, run in runs.items() if key[:2] == (recipe, encoder)]
        means = [mean([one[column.head] for one in figures], column.form) for column in RUN_COLUMNS]
        rows.append((recipe, encoder, str(len(figures)), *means))
    note = (
        "Mean over the seeds ± half of its 95 % interval (Student's t). TCEOCS_t and μ(R²)_t are against the text "
        "target of the recipe, the rest against the captions' own embeddings."
    )
    head = ("recipe", "encoder", "seeds", *(column.head for column in RUN_COLUMNS))
    return Table("Every recipe and encoder", note, head, rows)


def _compare_changes(runs: Runs) -> Table:
    contrasts = {
        name: {key: (without, *key[1:]) for key in runs if key[0] == with_it}
        for name, (with_it, without) in CONTRASTS.items()
    }
    note = "What each change alone does, over all pairs of the same encoder and seed."
    return _differences("What matters", note, contrasts, runs)


def _compare_encoders(runs: Runs) -> Table:
    contrasts = {
        f"{encoder}, not {REFERENCE}": {key: (key[0], REFERENCE, key[2]) for key in runs if key[1] == encoder}
        for encoder in dict.fromkeys(key[1] for key in runs)
        if encoder != REFERENCE
    }
    note = "What another encoder does, over all pairs of the same recipe and seed."
    return _differences("Which encoder", note, contrasts, runs)


def _differences(title: str, note: str, contrasts: Mapping[str, Mapping[Key, Key]], runs: Runs) -> Table:
    """Mean differences between runs and those that each is paired with, where both are there."""
    chosen = [column for column in RUN_COLUMNS if column.comparable]
    rows = []
    for name, partners in contrasts.items():
        if pairs := [(runs[key].figures, runs[other].figures) for key, other in partners.items() if other in runs]:
            means = [mean([a[column.head] - b[column.head] for a, b in pairs], column.form) for column in chosen]
            rows.append((name, str(len(pairs)), *means))
    note += " Mean differences ± half of their 95 % interval (Student's t over the pairs)."
    return Table(title, note, ("", "pairs", *(column.head for column in chosen)), rows)


def _reproduction_section(runs: Runs, figure: str) -> str:
    size = next(iter(runs.values())).size
    parts = [
        wrap(
            f"Evaluated on {size:,} held-out sounds of the toy world at once: chance is TCEOCS 2 ln M = "
            f"{metrics.chance(size):.4f}, the least without a temperature {metrics.floor(size):.4f}, and recall@10 "
            f"{1_000 / size:.1f} %."
        ),
        f"![Every run: a row a recipe, a color an encoder, a dot a seed]({figure})\n",
    ]
    tables = (_every_run(runs), _compare_changes(runs), _compare_encoders(runs))
    parts += [write_table(table) for table in tables if table.rows]
    return "\n".join(parts)


def _reproduction_plot(runs: Runs) -> Figure:
    """A panel a column that is comparable: a row a recipe, a color an encoder, a dot a seed."""
    recipes, encoders = (list(dict.fromkeys(key[position] for key in runs)) for position in (0, 1))
    columns = [column for column in RUN_COLUMNS if column.comparable]
    columns = [column for column in columns if all(np.isfinite(run.figures[column.head]) for run in runs.values())]
    figure = Figure(figsize=(2.2 * len(columns) + 1.5, 0.45 * len(recipes) + 1.2), layout="constrained", dpi=120)
    axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axis, column in zip(axes, columns, strict=True):
        for which, (encoder, color) in enumerate(zip(encoders, PALETTE, strict=False)):
            dots = [(run.figures[column.head], recipes.index(key[0])) for key, run in runs.items() if key[1] == encoder]
            x, y = np.array(dots).T
            axis.plot(x, y + (which - (len(encoders) - 1) / 2) * 0.12, ".", color=color, label=encoder)
        axis.set_title(column.head, loc="left")
        if column.linear_to:
            axis.set_xscale("symlog", linthresh=column.linear_to)
        axis.grid(axis="y", color="0.92")
    axes[0].set_yticks(range(len(recipes)), recipes)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(encoders))
    return figure
