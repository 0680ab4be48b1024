"""Sounds made by other means than the training recipes are still heard as what they are."""

import jax
import numpy as np
import pytest
from flax import nnx

import encoders
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.runtime.bundled import TOY_MODEL
from jaxsd.toy import world
from jaxsd.toy.judge import load_judge, verdicts
from tests.helpers import outside_sounds as outside

CLIPS = 100


@pytest.mark.full_size
def test_outside_sounds_are_drawn_at_least_half_as_often_as_held_out_ones():
    clips = world.sounds("test", CLIPS, workers=1)
    encoder, pipe = encoders.load("gemini"), StableDiffusion.from_pretrained(TOY_MODEL)
    encode = nnx.jit(lambda encoder, pcm: encoder(pcm))
    scenes, judge = world.scenes("test", CLIPS), load_judge()

    def right(sounds):
        made = pipe(encode(encoder, sounds), key=jax.random.key(0))
        return verdicts(judge, np.asarray(made), scenes)["class"].mean()

    shares = {"held out": right(clips)} | {name: right(spoilt) for name, spoilt in outside.conditions(clips).items()}
    print(shares)
    assert min(shares.values()) >= shares["held out"] / 2
