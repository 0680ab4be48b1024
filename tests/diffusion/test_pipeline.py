"""What a user of the pipeline relies on."""

import jax
import numpy as np
import pytest
from PIL import Image

from jaxsd.config import read_json, write_json
from jaxsd.convert.rules import parameters
from jaxsd.diffusion.pipeline import StableDiffusion, _encode_pictures, _generate, scheduler_json, to_pil
from jaxsd.diffusion.samplers import SCHEDULERS, NoiseSchedule
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


def test_a_picture_depends_on_its_own_key_alone(pipe, cond, rng):
    """Noise, the image's latents and the sampler's own noise."""
    keys = jax.random.split(jax.random.key(1), 3)
    arguments = {"steps": 4, "sampler": "euler_a", "image": rng.random((1, 32, 32, 3)), "strength": 1.0}
    together = pipe(cond, key=keys, **arguments)
    alone = pipe(cond[2:], key=keys[2:], **arguments)
    np.testing.assert_allclose(together[2:], alone, atol=1e-5)
    same = pipe(np.repeat(cond[:1], 3, axis=0), key=keys, **arguments)
    assert np.abs(np.asarray(same[0]) - np.asarray(same[1])).max() > 0.01


def test_strength_is_how_little_is_left_of_the_image(pipe, cond, rng):
    image = Image.fromarray(rng.integers(0, 256, (20, 50, 3), np.uint8))
    low, high, same, other = (
        np.asarray(pipe(cond, steps=4, image=picture, strength=strength))
        for picture, strength in ((image, 0.5), (image, 1.0), (image, 0.6), (image.rotate(180), 0.5))
    )
    assert low.shape == (3, 32, 32, 3)
    np.testing.assert_array_equal(low, same)  # the same two steps of four
    assert np.abs(low - high).mean() > 0.01 and np.abs(low - other).mean() > 0.01


def test_strengths_of_equally_many_steps_do_not_recompile(pipe, cond, rng):
    image = rng.random((3, 32, 32, 3))
    pipe(cond, steps=4, image=image, strength=0.5)
    compiled = _generate._cache_size(), _encode_pictures._cache_size()
    pipe(cond, steps=3, image=image, strength=0.7)
    pipe(cond, steps=2, sampler="euler")
    assert (_generate._cache_size(), _encode_pictures._cache_size()) == compiled


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
        ({"sampler": "magic"}, "unknown sampler 'magic'; allowed: pndm, ddim, lms"),
        ({"steps": 0}, "steps is 0; allowed: 1 to 999"),
        ({"latents": np.zeros((2, 8, 8, 4))}, "latents are 2 and cond are 3"),
        ({"image": np.zeros((2, 8, 8, 3))}, "images are 2 and cond are 3; allowed: as many, or one for all"),
        ({"image": np.zeros((1, 8, 8, 3)), "strength": 0.0}, "strength is 0.0; allowed: above 0, up to 1"),
        ({"key": jax.random.split(jax.random.key(0), 2)}, r"key has shape \(2,\); allowed: one key, or 3 of them"),
    ],
)
def test_bad_arguments(pipe, cond, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe(cond, **arguments)


def test_wrong_width(pipe):
    with pytest.raises(ValueError, match=r"cond has shape \(1, 77, 23\); allowed: \(batch, tokens, 24\)"):
        pipe(np.zeros((1, 77, 23)))


def test_save_and_load_give_the_same_parameters(pipe, tmp_path):
    schedule = NoiseSchedule(sampler="pndm", prediction_type="v_prediction")
    StableDiffusion(pipe.unet, pipe.vae, pipe.text_encoder, models.TOKENIZER, schedule).save_pretrained(tmp_path)
    again = StableDiffusion.from_pretrained(tmp_path)
    for name in ("unet", "vae", "text_encoder"):
        before, after = (parameters(getattr(p, name)) for p in (pipe, again))
        assert before.keys() == after.keys()
        assert all(np.array_equal(before[key], after[key]) for key in before)
    assert again.schedule == schedule
    assert read_json(tmp_path / "model_index.json")["scheduler"] == ["diffusers", "PNDMScheduler"]


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_the_schedulers_class_names_the_sampler(tmp_path, sampler):
    schedule = NoiseSchedule(sampler=sampler, use_karras_sigmas=True)
    write_json(tmp_path / "scheduler_config.json", scheduler_json(schedule))
    assert NoiseSchedule.read(tmp_path / "scheduler_config.json") == schedule


def test_the_default_sampler_is_the_schedules(pipe, cond):
    other = StableDiffusion(pipe.unet, pipe.vae, pipe.text_encoder, None, NoiseSchedule(sampler="euler_a"))
    np.testing.assert_array_equal(other(cond, cond, steps=4), pipe(cond, cond, steps=4, sampler="euler_a"))


def test_missing_folder():
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        StableDiffusion.from_pretrained("nowhere")
