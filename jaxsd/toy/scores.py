"""Scores encoders on the toy world: alignment, denoising loss, and what the judge sees in the pictures they make."""

import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich import box
from rich.console import Console
from rich.table import Table

import encoders
from jaxsd import evaluation
from jaxsd.clip.pipeline import CLIP
from jaxsd.data.columns import open_columns
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.progress import Progress
from jaxsd.toy import world
from jaxsd.toy.bundled import ENCODER, WEIGHTS
from jaxsd.toy.dataset import in_batches, to_float, write_dataset
from jaxsd.toy.judge import QUESTIONS, Judge, labels, load_judge

GUIDANCE, STEPS = 3.0, 25


def score(runs: list[str], data_folder: Path, pictures: int, data_size: int = 1_000) -> dict[str, dict[str, float]]:
    """The figures of every run (an encoder's folder) and of the references beside it, by name.

    `pictures` is the number of pictures the judge sees a row (0: none). Raises ValueError where it does not fit.
    """
    if pictures and not evaluation.BATCH <= pictures <= data_size:
        raise ValueError(f"pictures is {pictures}; allowed: 0, or {evaluation.BATCH} to {data_size}")
    trained = {_name(run): encoders.load(run) for run in runs}
    folder = data_folder / "test"
    write_dataset(folder, "test", data_size, WEIGHTS)
    data = open_columns(folder)
    pipe = StableDiffusion.from_pretrained(WEIGHTS)
    projection = CLIP.from_pretrained(WEIGHTS / "clip").model.text_projection.kernel[...]

    results: dict[str, dict[str, float]] = {}
    contexts = dict(references(pipe, data))
    for name, encoder in trained.items():
        contexts[name] = evaluation.encode_audio(encoder, data["audio"])
        results[name] = evaluation.alignment(contexts[name], data, projection)
    for name, context in contexts.items():
        results.setdefault(name, {})["denoising"] = evaluation.denoising_loss(pipe, data["latents"], context)
    if pictures:
        judge = load_judge()
        results["real pictures"] = accuracy(judge, world.pictures(world.scenes("test", pictures)))
        with Progress("pictures", pictures * len(contexts), unit="picture") as progress:
            for index, (name, context) in enumerate(contexts.items()):
                made = evaluation.pictures(
                    pipe,
                    context[:pictures],
                    guidance=GUIDANCE,
                    steps=STEPS,
                    progress=lambda done, first=index * pictures: progress.advance(first + done),
                )
                results[name] |= accuracy(judge, made)
    return results


def _name(run: str) -> str:
    return "bundled encoder" if Path(run).resolve() == ENCODER.resolve() else run


def references(pipe: StableDiffusion, data) -> Iterator[tuple[str, np.ndarray]]:
    """Conditionings that need no encoder, (n, 77, width) each."""
    captions = in_batches(lambda tokens: pipe.text_encoder(tokens).hidden_states, np.asarray(data["tokens"]))
    yield "own caption", captions
    # Things are in rotation: five rows on is always another thing.
    yield "wrong caption", np.roll(captions, 5, axis=0)
    things = np.asarray(pipe.encode_text([world.class_caption(thing) for thing in world.THINGS]))
    yield "caption of the thing", things[data["thing"]]
    yield "no caption", np.repeat(np.asarray(pipe.encode_text([""])), len(captions), axis=0)
    yield "N(0, 1)", np.random.default_rng(0).standard_normal(captions.shape, dtype=np.float32)


def accuracy(judge: Judge, pictures: np.ndarray) -> dict[str, float]:
    """The share of pictures of the first test scenes in which the judge sees the scene's answer.

    `pictures` are uint8, or float in [0, 1]; `things` holds the share of each thing.
    """
    pictures = to_float(pictures) if pictures.dtype == np.uint8 else jnp.asarray(pictures) * 2 - 1
    count = len(pictures)
    truth = labels(world.scenes("test", count))
    answers = jax.tree.map(lambda logits: logits.argmax(axis=-1), nnx.jit(lambda j, x: j(x))(judge, pictures))
    shares = {name: float(jnp.mean(answers[name] == truth[name])) for name in QUESTIONS}
    for index, thing in enumerate(world.THINGS):
        of_thing = truth["thing"] == index
        shares[f"thing={thing}"] = float(jnp.sum((answers["thing"] == index) & of_thing) / jnp.sum(of_thing))
    return shares | {"pictures": count}


ALIGNMENT = ("loss", "TCEOCS_t", "TCEOCS_i", "chance", "recall_i@10")


def show(results: dict[str, dict[str, float]]):
    """Print the figures as two tables: the encoders' alignment with CLIP, and what every conditioning draws."""
    console = Console(width=None if sys.stdout.isatty() else 100)
    encoders_ = {name: figures for name, figures in results.items() if "loss" in figures}
    console.print(_table("Alignment with CLIP, over the whole split at once", "encoder", ALIGNMENT, encoders_))
    console.print(_table("Pictures", "conditioning", ("denoising", *QUESTIONS), results))
    console.print(
        "denoising: the frozen U-Net's loss under the conditioning, lower is better. thing, colour, background, side: "
        "the share of pictures in which the judge sees what the scene has, thing with its 95 % interval; of these a "
        "sound tells the thing alone."
    )


def _table(title: str, first: str, columns: tuple[str, ...], rows: dict[str, dict[str, float]]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column(first, overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for name, figures in rows.items():
        table.add_row(name, *(_text(column, figures) for column in columns))
    return table


def _text(column: str, figures: dict[str, float]) -> str:
    if column not in figures:
        return ""
    if column == "thing":
        low, high = evaluation.wilson(figures["thing"], figures["pictures"])
        return f"{figures['thing']:.1%} [{low:.0%}, {high:.0%}]"
    return f"{figures[column]:.1%}" if column in QUESTIONS else f"{figures[column]:.4f}"
