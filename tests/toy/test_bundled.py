"""What ships with the package does what the README says."""

import jax
import numpy as np
import pytest
from flax import nnx

import encoders
from jaxsd import evaluation
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.toy import bundled, scores, world
from jaxsd.toy import judge as judge_module


@pytest.fixture(scope="module")
def judge():
    return judge_module.load_judge()


@pytest.fixture(scope="module")
def pipe():
    return StableDiffusion.from_pretrained(bundled.WEIGHTS)


def test_weights_are_small():
    size = sum(path.stat().st_size for path in bundled.WEIGHTS.rglob("*") if path.is_file())
    assert size <= 12e6
    assert all(path.stat().st_size <= 1.5e6 for path in (bundled.ENCODER / "model.safetensors", bundled.JUDGE))


def test_the_judge_knows_real_pictures(judge):
    shares = scores.accuracy(judge, world.pictures(world.scenes("test", 500)))
    assert min(shares[name] for name in ("thing", "colour", "background", "side")) >= 0.97


def test_the_judge_is_at_chance_on_noise(judge, rng):
    noise = rng.uniform(size=(200, 64, 64, 3)).astype(np.float32)
    assert scores.accuracy(judge, noise)["thing"] < 0.25


def accuracy_of(pipe, judge, context):
    pictures = evaluation.pictures(pipe, context, guidance=scores.GUIDANCE, steps=15)
    return scores.accuracy(judge, pictures)["thing"]


def test_sounds_become_pictures_of_what_was_heard(pipe, judge):
    audio = world.sounds("test", 50, workers=1)
    encoder = encoders.load(bundled.ENCODER)
    rows = nnx.jit(lambda model, pcm: model(pcm))(encoder, audio)
    assert accuracy_of(pipe, judge, np.asarray(rows)) >= 0.85
    noise = np.asarray(jax.random.normal(jax.random.key(0), rows.shape))
    assert accuracy_of(pipe, judge, noise) <= 0.3
