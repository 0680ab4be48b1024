"""What a user of the pipeline relies on."""

import jax
import numpy as np
import pytest

from jaxsd.convert.rules import parameters
from jaxsd.diffusion.pipeline import StableDiffusion, _generate, to_pil
from tests import models


@pytest.fixture(scope="module")
def pipe():
    return models.stable_diffusion()


@pytest.fixture
def cond(rng):
    return rng.standard_normal((3, 77, 24), np.float32)


def test_a_picture_does_not_depend_on_its_batch_mates(pipe, cond):
    together = pipe(cond, steps=4)
    alone = pipe(cond[:1], steps=4)
    np.testing.assert_allclose(together[:1], alone, atol=1e-5)
    assert np.abs(np.asarray(together[0]) - np.asarray(together[1])).max() > 0.01


def test_pictures_are_rgb_in_unit_range_of_the_size_asked_for(pipe, cond):
    images = pipe(cond, steps=2, height=24, width=40)
    assert images.shape == (3, 24, 40, 3) and images.dtype == np.float32
    assert images.min() >= 0 and images.max() <= 1
    assert to_pil(images)[0].size == (40, 24)


def test_prompt_seed_and_guidance_do_not_recompile(pipe, cond):
    pipe(cond, steps=3, guidance=2.0, key=jax.random.key(0))
    compiled = _generate._cache_size()
    pipe(cond + 1, cond, steps=3, guidance=7.5, key=jax.random.key(1))
    assert _generate._cache_size() == compiled


def test_guidance_of_one_ignores_the_unconditional_half(pipe, cond):
    np.testing.assert_allclose(
        pipe(cond, cond * 0, guidance=1.0, steps=3), pipe(cond, cond * 3, guidance=1.0, steps=3), atol=1e-4
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"height": 30}, "height is 30; allowed: multiples of 4"),
        ({"sampler": "magic"}, "unknown sampler 'magic'; allowed: ddim, lms"),
        ({"steps": 0}, "steps is 0; allowed: 1 to 1000"),
        ({"latents": np.zeros((2, 8, 8, 4))}, "latents are 2 and cond are 3"),
    ],
)
def test_bad_arguments(pipe, cond, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe(cond, **arguments)


def test_wrong_width(pipe):
    with pytest.raises(ValueError, match=r"cond has shape \(1, 77, 23\); allowed: \(batch, tokens, 24\)"):
        pipe(np.zeros((1, 77, 23)))


def test_save_and_load_give_the_same_parameters(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = StableDiffusion.from_pretrained(tmp_path)
    for name in ("unet", "vae", "text_encoder"):
        before, after = (parameters(getattr(p, name)) for p in (pipe, again))
        assert before.keys() == after.keys()
        assert all(np.array_equal(before[key], after[key]) for key in before)


def test_missing_folder():
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        StableDiffusion.from_pretrained("nowhere")
