"""Which recipe makes rows that the U-Net understands, on the toy world: what is drawn of them, and where they lie."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
from flax import nnx
from matplotlib.figure import Figure

import encoders
from jaxsd.batching import map_batches
from jaxsd.config import TrainConfig
from jaxsd.data.columns import open_columns
from jaxsd.evaluation import metrics
from jaxsd.evaluation.evaluate import evaluate
from jaxsd.evaluation.images import draw_images
from jaxsd.evaluation.inputs import EvaluatedEncoder, EvaluationSplit
from jaxsd.evaluation.report.plots import PALETTE, STYLE
from jaxsd.evaluation.report.tables import Table
from jaxsd.files import replacing
from jaxsd.toy import world
from jaxsd.toy.experiments.runs import Runs, configure, mean, run_all
from jaxsd.toy.judge import load_judge, verdicts
from jaxsd.training.metric_writers import read_metrics

RECIPES = ("paper", "aligned", "denoise", "aligned+denoise")
GUIDANCES = (1.5, 3.0, 5.0, 7.5)
ENCODED_CAPTIONS = 50  # at a time
CAPTIONS = 4_000  # of the training split, which stand for all that the U-Net was trained on
FIGURES = ("denoising", "denoising gain", "distance", "s a step")
NAMES = (*FIGURES, *(f"{thing}@{guidance:g}" for guidance in GUIDANCES for thing in ("all", *world.CLASSES)))


def compare(
    folder: Path, *, encoder: str, seeds: int, pictures: int, overrides: Sequence[str], section: Path | None
) -> Path:
    """Train `encoder` by every recipe `seeds` times and draw `pictures` of each run under every guidance; the section.

    Writes the section in Markdown, by default `folder`/recipes.md, with a PNG and the CSV file of runs beside it
    (`jaxsd.toy.experiments.runs.run_all`). `overrides` (--config.KEY=VALUE) are of every run. Raises ValueError where
    there are not as many held-out sounds as `pictures`, or not a picture of each class.
    """
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; allowed: 1 or more")
    section = section or folder / "recipes.md"
    figure = section.with_suffix(".png")
    keys = [(recipe, encoder, seed) for seed in range(seeds) for recipe in RECIPES]
    configs = {key: configure(key[0], {}, key, overrides) for key in keys}
    held_out = configs[keys[0]].data.held_out
    if not len(world.CLASSES) <= pictures <= held_out:
        raise ValueError(f"pictures is {pictures}; allowed: {len(world.CLASSES)} to {held_out}")
    runs = run_all(
        folder,
        section.with_suffix(".csv"),
        configs,
        NAMES,
        partial(_measure, pictures=pictures),
        asked=f"{pictures} pictures",
    )
    with matplotlib.rc_context(STYLE), replacing(figure) as part:
        _figure(runs).savefig(part)
    with replacing(section) as part:
        part.write_text(_section(runs, pictures, figure.name))
    return section


def _measure(run: Path, config: TrainConfig, split: EvaluationSplit, *, pictures: int) -> list[float]:
    """The figures of NAMES."""
    encoder = encoders.load(run)
    found = evaluate([EvaluatedEncoder("run", str(run), encoder)], split, references=())
    figures = found["encoders"]["run"]["figures"]
    rows = nnx.jit(lambda encoder, pcm: encoder(pcm))(encoder, split.columns["audio"][:pictures])
    lines = read_metrics(run / "metrics.jsonl")
    speeds = [line["examples_per_second"] for line in lines if "examples_per_second" in line]
    captions = caption_rows(Path(config.data.folder) / "train", split)
    values = [
        figures["denoising"],
        figures["denoising gain"],
        float(metrics.nearest(np.asarray(rows), captions).mean()) / np.sqrt(captions.var(axis=0).mean()),
        config.batch_size / float(np.median(speeds)),
    ]
    scenes, judge = world.scenes("test", pictures, split.metadata["seed"]), load_judge()
    for guidance in GUIDANCES:
        made = draw_images(split.pipe, rows, guidance=guidance)
        right = verdicts(judge, made, scenes)
        values += [float(right["class"].mean()), *(float(right[f"class={thing}"].mean()) for thing in world.CLASSES)]
    return values


def caption_rows(folder: Path, split: EvaluationSplit) -> np.ndarray:
    """Hidden states (n, 77, width), float32, of the captions of the first CAPTIONS rows in `folder`, each once."""
    tokens = np.unique(open_columns(folder)["tokens"][:CAPTIONS], axis=0)
    encode = nnx.jit(lambda model, tokens: model(tokens).hidden_states)
    text_model = split.clip.model.text_model
    return map_batches(lambda batch: encode(text_model, batch), tokens, ENCODED_CAPTIONS)


def _share(runs: Runs, recipe: str, name: str, pictures: int) -> str:
    """The share of a recipe's pictures that are right, over all its seeds, with Wilson's interval."""
    shares = [run.figures[name] for key, run in runs.items() if key[0] == recipe]
    share, count = float(np.mean(shares)), len(shares) * pictures
    low, high = metrics.wilson(share, count if name.startswith("all") else count // len(world.CLASSES))
    return f"{100 * share:.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def _tables(runs: Runs, pictures: int) -> list[Table]:
    recipes = list(dict.fromkeys(key[0] for key in runs))
    forms = ("{:.4f}", "{:.4f}", "{:.3f}", "{:.2f}")
    figures, things = [], []
    for recipe in recipes:
        means = [
            mean([run.figures[name] for key, run in runs.items() if key[0] == recipe], form)
            for name, form in zip(FIGURES, forms, strict=True)
        ]
        figures.append((recipe, *(_share(runs, recipe, f"all@{g:g}", pictures) for g in GUIDANCES), *means))
        things += [
            (f"{recipe}, {guidance:g}", *(_share(runs, recipe, f"{t}@{guidance:g}", pictures) for t in world.CLASSES))
            for guidance in GUIDANCES
        ]
    return [
        Table(
            "Every recipe",
            "Right classes in per cent, over all seeds, with Wilson's 95 % intervals, by guidance; the other columns "
            "are means over the seeds ± half of their 95 % interval (Student's t). Distance: that of the rows to those "
            "of the nearest training caption, in standard deviations of the captions' rows.",
            ("recipe", *(f"guidance {g:g}, %" for g in GUIDANCES), *FIGURES),
            figures,
        ),
        Table(
            "Every class",
            "Right classes in per cent with Wilson's 95 % intervals, by recipe and guidance.",
            ("recipe, guidance", *world.CLASSES),
            things,
        ),
    ]


def _section(runs: Runs, pictures: int, figure: str) -> str:
    seeds = len({key[2] for key in runs})
    parts = [
        f"{seeds} seeds a recipe, {pictures} pictures a seed and guidance, of held-out sounds.\n",
        f"![Share of right classes by guidance, and denoising gain against distance; a dot a seed]({figure})\n",
    ]
    parts += [f"### {table.title}\n\n{table.note}\n\n{table.to_markdown()}" for table in _tables(runs, pictures)]
    return "\n".join(parts)


def _figure(runs: Runs) -> Figure:
    """Left the share of right classes over the guidance, right where the rows are; a color a recipe, a dot a seed."""
    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2)
    for recipe, color in zip(dict.fromkeys(key[0] for key in runs), PALETTE, strict=False):
        chosen = [run.figures for key, run in runs.items() if key[0] == recipe]
        shares = 100 * np.array([[figures[f"all@{g:g}"] for g in GUIDANCES] for figures in chosen])
        left.plot(GUIDANCES, shares.mean(axis=0), color=color, label=recipe)
        left.plot(GUIDANCES, shares.T, ".", color=color)
        right.plot([f["distance"] for f in chosen], [f["denoising gain"] for f in chosen], ".", color=color)
    left.set(xlabel="guidance", ylabel="right classes, %", xticks=GUIDANCES, ylim=(0, 101))
    right.set(xlabel="distance to the nearest caption's rows", ylabel="denoising gain over no caption")
    right.set_yscale("symlog", linthresh=0.001)  # the gains of recipes lie two orders of magnitude apart
    right.axhline(0, color="0.8", zorder=0)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(RECIPES))
    return figure
