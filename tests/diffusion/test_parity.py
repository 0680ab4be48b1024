"""Stable Diffusion against PyTorch diffusers: by part, and whole pictures."""

from contextlib import contextmanager

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_img2img as img2img
from flax import nnx

from jaxsd.clip.tokens import tokenize
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.diffusion.programs import encode_images
from jaxsd.diffusion.samplers import SAMPLERS
from jaxsd.diffusion.vae import Gaussian
from jaxsd.runtime.bundled import TOY_MODEL
from jaxsd.toy import world
from tests.helpers import models

pytestmark = pytest.mark.slow

# These draw noise of their own: see test_samplers.
DETERMINISTIC = [name for name in SAMPLERS if name not in ("euler_a", "lcm", "tcd")]


@nnx.jit
def apply(model, *arguments):
    return model(*arguments)


def to_torch(x):
    """NHWC -> NCHW."""
    return torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)


def from_torch(x):
    """NCHW -> NHWC."""
    return x.permute(0, 2, 3, 1).numpy()


def load_torch(folder):
    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A random tiny model, written by us and read by both."""
    folder = tmp_path_factory.mktemp("tiny")
    models.stable_diffusion().save_pretrained(folder)
    return StableDiffusion.from_pretrained(folder), load_torch(folder)


@pytest.fixture(scope="module")
def bundled():
    return StableDiffusion.from_pretrained(TOY_MODEL), load_torch(TOY_MODEL)


@pytest.mark.parametrize("height, width", [(8, 8), (5, 9)])
def test_unet(pair, rng, height, width):
    ours, theirs = pair
    x = rng.standard_normal((2, height, width, 4), np.float32)
    t = np.array([10, 700], np.float32)
    context = rng.standard_normal((2, 77, 24), np.float32)
    with torch.no_grad():
        expected = from_torch(theirs.unet(to_torch(x), torch.tensor(t), torch.tensor(context)).sample)
    np.testing.assert_allclose(apply(ours.unet, x, t, context), expected, atol=3e-5)


def test_vae(pair, rng):
    ours, theirs = pair
    picture = rng.uniform(-1, 1, (2, 32, 48, 3)).astype(np.float32)
    latents = rng.standard_normal((2, 9, 5, 4), np.float32)
    with torch.no_grad():
        posterior = theirs.vae.encode(to_torch(picture)).latent_dist
        decoded = from_torch(theirs.vae.decode(to_torch(latents)).sample)
    gaussian = nnx.jit(lambda vae, x: vae.encode(x))(ours.vae, picture)
    np.testing.assert_allclose(gaussian.mean, from_torch(posterior.mean), atol=3e-5)
    np.testing.assert_allclose(gaussian.log_variance, from_torch(posterior.logvar), atol=3e-5)
    np.testing.assert_allclose(gaussian.kl(), posterior.kl().numpy(), rtol=1e-5)
    np.testing.assert_allclose(nnx.jit(lambda vae, z: vae.decode(z))(ours.vae, latents), decoded, atol=3e-5)


def test_text_encoder(pair):
    ours, theirs = pair
    texts = ["a red dog on the left", "", "zebra crossing", "word " * 100]
    tokens = tokenize(ours.tokenizer, texts)
    np.testing.assert_array_equal(
        tokens, theirs.tokenizer(texts, padding="max_length", truncation=True, return_tensors="np").input_ids
    )
    with torch.no_grad():
        expected = theirs.text_encoder(torch.tensor(tokens.astype(np.int64)))[0].numpy()
    np.testing.assert_allclose(ours.encode_text(texts), expected, atol=3e-5)


def set_scheduler(theirs, sampler, prediction_type="epsilon"):
    scheduler = getattr(diffusers, SAMPLERS[sampler].scheduler)
    theirs.scheduler = scheduler.from_config(theirs.scheduler.config, prediction_type=prediction_type)


def pictures_of_both(pair, rng, sampler, steps, cond, uncond, prediction_type="epsilon"):
    ours, theirs = pair
    size, channels = ours.unet.config.sample_size, ours.unet.config.in_channels
    latents = rng.standard_normal((len(cond), size, size, channels), np.float32)
    set_scheduler(theirs, sampler, prediction_type)
    with torch.no_grad():
        expected = theirs(
            prompt_embeds=torch.tensor(cond),
            negative_prompt_embeds=torch.tensor(uncond),
            latents=to_torch(latents),
            num_inference_steps=steps,
            guidance_scale=5.0,
            height=size * ours.vae.config.factor,
            width=size * ours.vae.config.factor,
            output_type="np",
        ).images
    return ours(cond, uncond, guidance=5.0, steps=steps, sampler=sampler, latents=latents), expected


@pytest.mark.parametrize("sampler, steps", [("ddim", 1), *((sampler, 12) for sampler in DETERMINISTIC)])
def test_samplers(pair, rng, sampler, steps):
    cond, uncond = rng.standard_normal((2, 2, 77, 24), np.float32)
    images, expected = pictures_of_both(pair, rng, sampler, steps, cond, uncond)
    np.testing.assert_allclose(images, expected, atol=1e-4)


@contextmanager
def latents_are_means(theirs):
    """A picture's latents are the mean, in diffusers' module `theirs` too, so that both start from the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Gaussian, "sample", lambda self, key: self.mean)
        patch.setattr(theirs, "retrieve_latents", lambda output, **_: output.latent_dist.mode())
        encode_images.clear_cache()
        yield
    encode_images.clear_cache()


@pytest.fixture(scope="module")
def mean_latents():
    with latents_are_means(img2img):
        yield


# diffusers' PNDM and LMS start in mid-schedule by a rule of their own: see test_samplers.
@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpm++2m"])
def test_image_to_image(pair, rng, sampler, mean_latents, monkeypatch):
    ours, theirs = pair
    cond, uncond = rng.standard_normal((2, 2, 77, 24), np.float32)
    noise = rng.standard_normal((2, 8, 8, 4), np.float32)
    picture = rng.random((2, 32, 32, 3), np.float32)
    monkeypatch.setattr(img2img, "randn_tensor", lambda *_, **__: to_torch(noise))
    set_scheduler(theirs, sampler)
    with torch.no_grad():
        expected = StableDiffusionImg2ImgPipeline(**theirs.components, requires_safety_checker=False)(
            prompt_embeds=torch.tensor(cond),
            negative_prompt_embeds=torch.tensor(uncond),
            image=to_torch(picture),
            strength=0.7,
            num_inference_steps=18,  # of which 12, as above: a compiled loop less
            guidance_scale=5.0,
            output_type="np",
        ).images
    images = ours(cond, uncond, guidance=5.0, steps=18, sampler=sampler, latents=noise, image=picture, strength=0.7)
    np.testing.assert_allclose(images, expected, atol=1e-4)


@pytest.mark.parametrize("sampler", ["ddim", "lms"])
def test_v_prediction(pair, rng, sampler):
    cond, uncond = rng.standard_normal((2, 2, 77, 24), np.float32)
    _, theirs = pair
    ours = models.stable_diffusion("v_prediction")
    images, expected = pictures_of_both((ours, theirs), rng, sampler, 5, cond, uncond, "v_prediction")
    np.testing.assert_allclose(images, expected, atol=1e-4)


@pytest.mark.parametrize("sampler", ["ddim", "lms"])
def test_bundled_weights_draw_the_same_picture_in_diffusers(bundled, rng, sampler):
    ours, _ = bundled
    cond = np.array(ours.encode_text([world.class_caption(thing) for thing in ("dog", "waves")]))
    uncond = np.repeat(np.array(ours.encode_text([""])), 2, axis=0)
    images, expected = pictures_of_both(bundled, rng, sampler, 25, cond, uncond)
    assert np.std(expected) > 0.05  # a picture, not a flat plane
    np.testing.assert_allclose(images, expected, atol=2 / 255)
