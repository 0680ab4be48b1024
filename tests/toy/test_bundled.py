"""What ships with the package does what the README says."""

import jax
import numpy as np
import pytest
from flax import nnx

import encoders
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.evaluation.images import draw_images
from jaxsd.evaluation.inputs import load_evaluated_encoders
from jaxsd.runtime import bundled
from jaxsd.toy import world
from jaxsd.toy.judge import load_judge, verdicts

pytestmark = pytest.mark.long

# The share of images of the right class that a bundled encoder must reach; docs/toy-world.md has how good they are.
RIGHT = {"gemini": 0.95, "grok": 0.95, "chatgpt": 0.8, "deepseek": 0.8, "human": 0.6}


@pytest.fixture(scope="module")
def judge():
    return load_judge()


@pytest.fixture(scope="module")
def pipe():
    return StableDiffusion.from_pretrained(bundled.TOY_MODEL)


def test_weights_are_small():
    size = sum(path.stat().st_size for path in bundled.TOY_MODEL.rglob("*") if path.is_file())
    assert size <= 12e6
    models = [bundled.TOY_ENCODERS / name / "model.safetensors" for name in encoders.ENCODERS]
    assert all(path.stat().st_size <= 1.5e6 for path in (*models, bundled.TOY_JUDGE))


def test_the_judge_knows_real_images(judge):
    scenes = world.scenes("test", 500)
    right = verdicts(judge, world.images(scenes), scenes)
    assert min(right[question].mean() for question in ("class", "color", "background", "side")) >= 0.97


def test_the_judge_is_at_chance_on_noise(judge, rng):
    noise = rng.uniform(size=(200, 64, 64, 3)).astype(np.float32)
    assert verdicts(judge, noise, world.scenes("test", 200))["class"].mean() < 0.25


def accuracy_of(pipe, judge, context):
    images = draw_images(pipe, context, steps=15)
    return verdicts(judge, images, world.scenes("test", len(images)))["class"].mean()


def test_the_encoders_are_found_by_name():
    subjects = load_evaluated_encoders(list(encoders.ENCODERS))
    assert [subject.name for subject in subjects] == [f"bundled {name}" for name in encoders.ENCODERS]
    assert [type(subject.encoder) for subject in subjects] == list(encoders.ENCODERS.values())


@pytest.mark.parametrize("name", RIGHT)
def test_sounds_become_images_of_their_class(pipe, judge, name):
    audio = world.sounds("test", 50, workers=1)
    encoder = encoders.load(name)
    rows = nnx.jit(lambda model, pcm: model(pcm))(encoder, audio)
    assert accuracy_of(pipe, judge, np.asarray(rows)) >= RIGHT[name]


def test_random_embeddings_are_images_of_anything(pipe, judge):
    noise = np.asarray(jax.random.normal(jax.random.key(0), (50, 77, 128)))
    assert accuracy_of(pipe, judge, noise) <= 0.3
