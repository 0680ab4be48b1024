"""The main job on the built-in world: train an encoder, compare it with the bundled one, draw what sounds look like."""

import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx

import encoders
from jaxsd.audio import load_clip
from jaxsd.bundled import TOY_MODEL, TOY_SAMPLES, encoder_source
from jaxsd.config import load_config
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.evaluation import report
from jaxsd.evaluation.evaluate import evaluate
from jaxsd.evaluation.inputs import load_evaluated_encoders, open_evaluation_split
from jaxsd.evaluation.report import contact_sheet
from jaxsd.toy import maker, world
from jaxsd.training.train import train

BEST = "gemini"
TRAIN_SIZE, HELD_OUT, STEPS, PICTURES = 2_000, 250, 800, 50


def demo(folder: Path) -> Path:
    """Run the demo into `folder`; the path of its contact sheet."""
    data = folder / "data"
    overrides = {
        "data.folder": data,
        "data.train_size": TRAIN_SIZE,
        "data.held_out": HELD_OUT,
        "steps": STEPS,
        "eval_every": STEPS // 4,
    }
    config = load_config("toy.py", [f"--config.{key}={value}" for key, value in overrides.items()])
    run = folder / "encoder"
    print(f"1/3  training a small encoder from scratch for {STEPS} steps", flush=True)
    start = time.monotonic()
    for split, size in (("train", TRAIN_SIZE), ("validation", HELD_OUT), ("test", HELD_OUT)):
        maker.make_split(data / split, split, size)
    train(config, run)
    print(f"     trained in {time.monotonic() - start:.0f} s: {run}", flush=True)

    print(
        "2/3  evaluating it beside the bundled gemini, which was trained for longer on ten times the data", flush=True
    )
    split = open_evaluation_split(data / "test")
    subjects = load_evaluated_encoders([str(run), BEST])
    report.show(evaluate(subjects, split, **maker.evaluation_options(split, PICTURES)))

    print("3/3  a picture for each sample sound, with the bundled gemini", flush=True)
    return sample_sheet(folder / "contact-sheet.png", [BEST])


def sample_sheet(path: Path, names: Sequence[str]) -> Path:
    """Write the contact sheet of the sample sounds: what is made of them by each of the encoders, and what is right.

    `names` are those of bundled encoders, or folders. Every sound has the same noise to start from in all rows.
    """
    clips = np.stack([load_clip(TOY_SAMPLES / f"{name}.wav").samples for name in world.CLASSES])
    pipe = StableDiffusion.from_pretrained(TOY_MODEL)
    pictures = {}
    for name in names:
        rows = nnx.jit(lambda model, pcm: model(pcm))(encoders.load(encoder_source(name)), clips)
        pictures[name] = pipe(rows, key=jax.random.key(0))
    pictures["training picture"] = world.images(world.scenes("train", len(world.CLASSES)))
    return contact_sheet(path, world.CLASSES, clips, {name: np.asarray(made) for name, made in pictures.items()})
