"""Evaluation on the toy world: what its classes are, and what the judge sees in the pictures."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsd.bundled import model_source
from jaxsd.data.columns import ABOUT
from jaxsd.data.features import to_float
from jaxsd.evaluation import evaluate as evaluation
from jaxsd.evaluation.inputs import EvaluationSplit, load_evaluated_encoders, open_evaluation_split
from jaxsd.files import read_json
from jaxsd.toy import world
from jaxsd.toy.dataset import write_dataset
from jaxsd.toy.judge import QUESTIONS, Judge, labels, load_judge

GUIDANCE, STEPS = 3.0, 25


def make_data(folder: Path, split: str, size: int = 1_000):
    """Make a split of the toy world where there is no data. Raises ValueError for one of models that are no more."""
    if not (folder / ABOUT).is_file():
        write_dataset(folder, split, size)
        return
    about = read_json(folder / ABOUT)
    if about.get("source") == "toy world":
        write_dataset(folder, about["split"], about["rows"], Path(model_source(about["diffusion"])), about["seed"])


def score(runs: list[str], data_folder: Path, pictures: int, data_size: int) -> evaluation.Results:
    """Every figure of the encoders in `runs` on the test split in `data_folder`, which is made where it is missing."""
    subjects = load_evaluated_encoders(runs)
    make_data(data_folder / "test", "test", data_size)
    split = open_evaluation_split(data_folder / "test")
    return evaluation.evaluate(subjects, split, **toy_eval_options(split, pictures))


def toy_eval_options(split: EvaluationSplit, pictures: int | None) -> dict:
    """What `evaluate` should know besides of data of the toy world: the classes, and what to draw (200 by default).

    Of other data, it is asked to draw what is asked for.
    """
    if "thing" not in split.columns:
        return {"drawing": evaluation.Drawing(pictures, guidance=7.5, steps=50) if pictures else None}
    count = min(200, len(split)) if pictures is None else pictures
    captions = [world.class_caption(thing) for thing in world.THINGS]
    things = evaluation.Labels(captions, np.asarray(split.columns["thing"]))
    if not count:
        return {"labels": things}
    place = split.about["split"], count, split.about["seed"]
    scenes = world.scenes(*place)
    judge, truth = load_judge(), labels(scenes)
    told = [world.named(caption, scene) for caption, scene in zip(world.captions(*place), scenes, strict=True)]
    drawing = evaluation.Drawing(
        count,
        GUIDANCE,
        STEPS,
        judge=lambda made: verdicts(judge, made, truth, told),
        real=world.pictures(scenes).astype(np.float32) / 255,
    )
    return {"labels": things, "drawing": drawing}


def verdicts(
    judge: Judge, pictures: np.ndarray, truth: dict[str, jax.Array], told: Sequence[frozenset[str]] = ()
) -> dict[str, np.ndarray]:
    """Of each question, in which pictures the judge sees what is true; `thing=...`: of the pictures of that thing.

    `pictures` (n, 64, 64, 3) are uint8, or float in [0, 1]. `told` is what each picture's caption names besides the
    thing: `named ...` is then of the pictures of which it is named.
    """
    pictures = to_float(pictures) if pictures.dtype == np.uint8 else jnp.asarray(pictures) * 2 - 1
    answers = nnx.jit(lambda j, x: j(x))(judge, pictures)
    right = {name: np.asarray(answers[name].argmax(axis=-1) == truth[name]) for name in QUESTIONS}
    for index, thing in enumerate(world.THINGS):
        right[f"thing={thing}"] = right["thing"][np.asarray(truth["thing"] == index)]
    for attribute in world.ATTRIBUTES if told else ():
        right[f"named {attribute}"] = right[attribute][[attribute in names for names in told]]
    return right


def accuracy(judge: Judge, pictures: np.ndarray) -> dict[str, float]:
    """The share of pictures of the first test scenes in which the judge sees the scene's answer, by question."""
    truth = labels(world.scenes("test", len(pictures)))
    return {name: float(right.mean()) for name, right in verdicts(judge, pictures, truth).items() if len(right)}
