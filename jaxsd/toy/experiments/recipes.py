"""Which recipe makes embeddings that the U-Net understands, on the toy world: by the images drawn of them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
from flax import nnx
from jaxtyping import Float
from matplotlib.figure import Figure

import encoders
from jaxsd.config import TrainConfig
from jaxsd.data.columns import open_columns
from jaxsd.evaluation import metrics
from jaxsd.evaluation.conditionings import encode_audio
from jaxsd.evaluation.evaluate import evaluate
from jaxsd.evaluation.images import draw_images
from jaxsd.evaluation.inputs import EvaluatedEncoder, EvaluationSplit
from jaxsd.evaluation.report.plots import PALETTE, STYLE
from jaxsd.evaluation.report.tables import Table
from jaxsd.runtime.files import replacing
from jaxsd.runtime.sharding import map_batches
from jaxsd.toy import world
from jaxsd.toy.experiments.runs import Runs, configure, mean, run_all, share_cell, write_table
from jaxsd.toy.judge import load_judge, verdicts
from jaxsd.training.metric_writers import read_metrics

COMPARED_RECIPES = ("paper", "aligned", "denoise", "aligned+denoise")
GUIDANCES = (1.5, 3.0, 5.0, 7.5)
ENCODED_CAPTIONS = 50  # at a time
CAPTIONS = 4_000  # of the training split, which stand for all that the U-Net was trained on
RUN_FIGURES = ("denoising", "denoising gain", "distance", "s a step")
FIGURE_NAMES = (*RUN_FIGURES, *(f"{name}@{guidance:g}" for guidance in GUIDANCES for name in ("all", *world.CLASSES)))


def compare(
    folder: Path,
    *,
    encoder: str,
    seeds: int,
    images: int,
    overrides: Sequence[str],
    section: Path | None,
    dry_run: bool = False,
) -> Path | None:
    """Train an encoder by every recipe, several times each, and compare the recipes by the images they lead to.

    Args:
        folder: holds the folders of the runs.
        encoder: the name of the encoder.
        seeds: how often every recipe is trained.
        images: how many images to draw of each run under each guidance.
        overrides: `--config.KEY=VALUE` of every run.
        section: the Markdown file to write, with a PNG and the CSV file of runs beside it (see
            `jaxsd.toy.experiments.runs.run_all`); by default `folder`/recipes.md.
        dry_run: only say what would be trained.

    Returns:
        The path of the Markdown file; None of a dry run.

    Raises:
        ValueError: there are fewer held-out sounds than `images`, or fewer images than classes.
    """
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; allowed: 1 or more")
    section = section or folder / "recipes.md"
    figure = section.with_suffix(".png")
    keys = [(recipe, encoder, seed) for seed in range(seeds) for recipe in COMPARED_RECIPES]
    configs = {key: configure(key[0], {}, key, overrides) for key in keys}
    held_out = configs[keys[0]].data.held_out
    if not len(world.CLASSES) <= images <= held_out:
        raise ValueError(f"the number of images is {images}; allowed: {len(world.CLASSES)} to {held_out}")
    runs = run_all(
        folder,
        section.with_suffix(".csv"),
        configs,
        FIGURE_NAMES,
        partial(_measure_recipe, images=images),
        asked=f"{images} pictures",
        dry_run=dry_run,
    )
    if dry_run:
        return None
    with matplotlib.rc_context(STYLE), replacing(figure) as part:
        _recipes_plot(runs).savefig(part)
    with replacing(section) as part:
        part.write_text(_recipes_section(runs, images, figure.name))
    return section


def _measure_recipe(run: Path, config: TrainConfig, split: EvaluationSplit, *, images: int) -> list[float]:
    """The figures of a run, in the order of FIGURE_NAMES."""
    encoder = encoders.load(run)
    found = evaluate([EvaluatedEncoder("run", str(run), encoder)], split, references=())
    figures = found["encoders"]["run"]["figures"]
    embeddings = np.asarray(encode_audio(encoder, split.columns["audio"][:images]))
    lines = read_metrics(run / "metrics.jsonl")
    speeds = [line["examples_per_second"] for line in lines if "examples_per_second" in line]
    captions = caption_hidden_states(Path(config.data.folder) / "train", split)
    values = [
        figures["denoising"],
        figures["denoising gain"],
        float(metrics.nearest_distances(embeddings, captions).mean()) / np.sqrt(captions.var(axis=0).mean()),
        config.batch_size / float(np.median(speeds)),
    ]
    assert split.pipe  # the toy world has latents
    scenes, judge = world.scenes("test", images, split.metadata["seed"]), load_judge()
    for guidance in GUIDANCES:
        made = draw_images(split.pipe, embeddings, guidance=guidance)
        right = verdicts(judge, made, scenes)
        values += [float(right["class"].mean()), *(float(right[f"class={name}"].mean()) for name in world.CLASSES)]
    return values


def caption_hidden_states(folder: Path, split: EvaluationSplit) -> Float[np.ndarray, "n 77 width"]:
    """The hidden states, float32, of the captions of the first CAPTIONS examples in `folder`, each caption once."""
    tokens = np.unique(open_columns(folder)["tokens"][:CAPTIONS], axis=0)
    encode = nnx.jit(lambda model, tokens: model(tokens).hidden_states)
    text_model = split.clip.model.text_model
    return map_batches(lambda batch: encode(text_model, batch), tokens, ENCODED_CAPTIONS)


def _share(runs: Runs, recipe: str, name: str, images: int) -> str:
    """The share of a recipe's images that are right, over all its seeds, with Wilson's interval."""
    shares = [run.figures[name] for key, run in runs.items() if key[0] == recipe]
    count = len(shares) * images
    return share_cell(float(np.mean(shares)), count if name.startswith("all") else count // len(world.CLASSES))


def _recipe_tables(runs: Runs, images: int) -> list[Table]:
    recipes = list(dict.fromkeys(key[0] for key in runs))
    forms = ("{:.4f}", "{:.4f}", "{:.3f}", "{:.2f}")
    figures, classes = [], []
    for recipe in recipes:
        means = [
            mean([run.figures[name] for key, run in runs.items() if key[0] == recipe], form)
            for name, form in zip(RUN_FIGURES, forms, strict=True)
        ]
        figures.append((recipe, *(_share(runs, recipe, f"all@{g:g}", images) for g in GUIDANCES), *means))
        classes += [
            (f"{recipe}, {guidance:g}", *(_share(runs, recipe, f"{t}@{guidance:g}", images) for t in world.CLASSES))
            for guidance in GUIDANCES
        ]
    return [
        Table(
            "Every recipe",
            "Right classes in per cent, over all seeds, with Wilson's 95 % intervals, by guidance; the other columns "
            "are means over the seeds ± half of their 95 % interval (Student's t). Distance: that of the embeddings to "
            "the hidden states of the nearest training caption, in standard deviations of these hidden states.",
            ("recipe", *(f"guidance {g:g}, %" for g in GUIDANCES), *RUN_FIGURES),
            figures,
        ),
        Table(
            "Every class",
            "Right classes in per cent with Wilson's 95 % intervals, by recipe and guidance.",
            ("recipe, guidance", *world.CLASSES),
            classes,
        ),
    ]


def _recipes_section(runs: Runs, images: int, figure: str) -> str:
    seeds = len({key[2] for key in runs})
    parts = [
        f"{seeds} seeds a recipe, {images} images a seed and guidance, of held-out sounds.\n",
        f"![Share of right classes by guidance, and denoising gain against distance; a dot a seed]({figure})\n",
    ]
    parts += [write_table(table) for table in _recipe_tables(runs, images)]
    return "\n".join(parts)


def _recipes_plot(runs: Runs) -> Figure:
    """Left the share of right classes by guidance, right where the embeddings lie; a color a recipe, a dot a seed."""
    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2)
    for recipe, color in zip(dict.fromkeys(key[0] for key in runs), PALETTE, strict=False):
        chosen = [run.figures for key, run in runs.items() if key[0] == recipe]
        shares = 100 * np.array([[figures[f"all@{g:g}"] for g in GUIDANCES] for figures in chosen])
        left.plot(GUIDANCES, shares.mean(axis=0), color=color, label=recipe)
        left.plot(GUIDANCES, shares.T, ".", color=color)
        right.plot([f["distance"] for f in chosen], [f["denoising gain"] for f in chosen], ".", color=color)
    left.set(xlabel="guidance", ylabel="right classes, %", xticks=GUIDANCES, ylim=(0, 101))
    right.set(xlabel="distance to the nearest caption's hidden states", ylabel="denoising gain over no caption")
    right.set_yscale("symlog", linthresh=0.001)  # the gains of recipes lie two orders of magnitude apart
    right.axhline(0, color="0.8", zorder=0)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(COMPARED_RECIPES))
    return figure
