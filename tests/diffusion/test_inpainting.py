"""Inpainting: the images of diffusers with and without a U-Net for it, and what a user relies on."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion_inpaint as inpaint
from flax import nnx
from PIL import Image
from safetensors.numpy import save_file

from jaxsd.diffusion.images import pad_image, prepare_mask
from jaxsd.diffusion.loading import load_single_file
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.diffusion.single_file import single_file_mapping
from jaxsd.diffusion.unet import UNet
from jaxsd.pretrained.mapping import export_parameters
from tests.diffusion.test_parity import latents_are_means, load_torch, set_scheduler, to_torch
from tests.helpers import models

pytestmark = pytest.mark.slow

INPAINTING_UNET = replace(models.UNET, in_channels=9)


def inpainting_model():
    pipe = models.stable_diffusion()
    pipe.unet = models.randomised(partial(UNet, INPAINTING_UNET), 0)
    return pipe


@pytest.fixture(scope="module", params=["any", "inpainting"])
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    (models.stable_diffusion() if request.param == "any" else inpainting_model()).save_pretrained(folder)
    return StableDiffusion.from_pretrained(folder), load_torch(folder)


@pytest.fixture(scope="module", autouse=True)
def mean_latents():
    with latents_are_means(inpaint):
        yield


def gradient():
    """Gray from black to white: what is 0.5 and more is painted."""
    return Image.fromarray(np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1)))


def disk(side):
    y, x = np.mgrid[:side, :side] / side - 0.5
    return Image.fromarray(np.uint8(255 * (x**2 + y**2 < 0.1)))


MASKS = {
    "half": Image.fromarray(np.repeat(np.uint8([[0] * 16 + [255] * 16]), 32, 0)),
    "gray": gradient(),
    "another size": disk(50),
    "black": Image.new("L", (32, 32), 0),
    "white": Image.new("RGB", (32, 32), "white"),
}


@pytest.fixture
def arrays():
    rng = np.random.default_rng(3)
    cond, uncond = rng.standard_normal((2, 1, 77, 24), np.float32)
    noise = rng.standard_normal((1, 8, 8, 4), np.float32)
    return cond, uncond, noise, Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8))


@pytest.mark.parametrize(
    "mask, sampler, strength",
    [(mask, "ddim", 1.0) for mask in MASKS]
    + [("half", "dpm++2m", strength) for strength in (0.7, 1.0)]
    + [pytest.param("half", sampler, 1.0, marks=pytest.mark.long) for sampler in ("pndm", "lms", "euler")]
    + [pytest.param("half", sampler, 0.7, marks=pytest.mark.long) for sampler in ("ddim", "euler")],
)
def test_images_of_diffusers(pair, arrays, mask, sampler, strength, monkeypatch):
    ours, theirs = pair
    cond, uncond, noise, image = arrays
    monkeypatch.setattr(inpaint, "randn_tensor", lambda *_, **__: to_torch(noise))
    set_scheduler(theirs, sampler)
    with torch.no_grad():
        expected = StableDiffusionInpaintPipeline(**theirs.components, requires_safety_checker=False)(
            prompt_embeds=torch.tensor(cond),
            negative_prompt_embeds=torch.tensor(uncond),
            image=image,
            mask_image=MASKS[mask],
            strength=strength,
            num_inference_steps=10,
            guidance_scale=5.0,
            height=32,
            width=32,
            output_type="np",
        ).images
    options = {"guidance": 5.0, "steps": 10, "sampler": sampler, "strength": strength}
    images = ours(cond, uncond, image=image, mask=MASKS[mask], latents=noise, **options)
    np.testing.assert_allclose(images, expected, atol=1e-3)


def test_a_mask_keeps_what_is_black(arrays):
    """The latents end as the image's own where nothing is painted."""
    pipe = models.stable_diffusion()
    cond, uncond, noise, image = arrays
    names = ("half", "black", "white")
    ends = {name: pipe(cond, uncond, image=image, mask=MASKS[name], latents=noise, steps=4) for name in names}
    plain = np.asarray(pipe(cond, uncond, latents=noise, steps=4))
    np.testing.assert_allclose(ends["white"], plain, atol=1e-5)
    kept = np.asarray(pipe.decode(pipe_latents(pipe, image)))
    np.testing.assert_allclose(ends["black"], kept, atol=1e-5)
    half = np.asarray(ends["half"])
    assert np.abs(half - kept)[:, :, :8].max() < np.abs(half - kept)[:, :, 24:].max()


def pipe_latents(pipe, image):
    pixels = jnp.asarray(image, jnp.float32)[None] / 255
    return pipe.vae.config.scaling_factor * pipe.vae.encode(2 * pixels - 1).mean


def test_masks_compile_nothing_and_may_be_one_each(arrays):
    pipe = models.stable_diffusion()
    cond, uncond, noise, image = arrays
    two = np.repeat(cond, 2, 0), uncond
    both = {"image": image, "steps": 3, "latents": np.repeat(noise, 2, 0)}
    masks = np.stack([prepare_mask(MASKS[name], 32, 32)[0, ..., 0] for name in ("half", "another size")])
    together = np.asarray(pipe(*two, mask=masks, **both))
    for index, name in enumerate(("half", "another size")):
        alone = pipe(cond, uncond, mask=MASKS[name], image=image, steps=3, latents=noise)
        np.testing.assert_allclose(together[index], alone[0], atol=1e-4)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    )
    for mask in MASKS.values():
        pipe(cond + 1, uncond, mask=mask, image=image, steps=3, latents=noise)
    assert not compiled


def test_a_model_for_inpainting_paints_all_without_a_mask(arrays):
    pipe = inpainting_model()
    cond, uncond, noise, image = arrays
    images = pipe(cond, uncond, latents=noise, steps=3)
    expected = pipe(cond, uncond, image=image, mask=MASKS["white"], latents=noise, steps=3)
    np.testing.assert_allclose(images, expected, atol=1e-5)


def test_a_single_file_for_inpainting(tmp_path, arrays):
    pipe = inpainting_model()
    whole = nnx.Dict({"unet": pipe.unet, "vae": pipe.vae, "text_encoder": pipe.text_encoder})
    mapping = single_file_mapping(models.UNET, len(models.AUTOENCODER.block_out_channels))
    save_file(export_parameters(whole, mapping), tmp_path / "model.safetensors")
    configs = {"unet_config": models.UNET, "vae_config": models.AUTOENCODER, "text_config": models.TEXT}
    parts = load_single_file(tmp_path / "model.safetensors", np.float32, **configs)
    assert parts.unet.config == INPAINTING_UNET
    np.testing.assert_array_equal(parts.unet.conv_in.kernel[...], pipe.unet.conv_in.kernel[...])


def test_outpainting_pads_and_masks_the_border():
    image, mask = pad_image(Image.new("RGB", (20, 10), "red"), 4, 0, 8, 6)
    assert image.size == mask.size == (32, 16)
    assert np.asarray(image).reshape(-1, 3).tolist() == [[255, 0, 0]] * (32 * 16)
    assert (np.asarray(mask)[:10, 4:24] == 0).all() and np.asarray(mask).sum() == 255 * (32 * 16 - 200)
    with pytest.raises(ValueError, match="the border is -1, 0, 0, 0 pixels; allowed: from 0"):
        pad_image(image, -1, 0, 0, 0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mask": np.zeros((32, 32))}, "there is a mask and no image"),
        ({"mask": np.zeros((32, 32, 3, 1)), "image": True}, "32 masks for 1 example; allowed: as many, or one"),
        ({"mask": np.zeros((1, 32, 32, 3)), "image": True}, r"mask has shape \(1, 32, 32, 3\); allowed"),
        ({"mask": np.full((32, 32), 2.0), "image": True}, "mask has values from 2.0 to 2.0; allowed: 0 to 1"),
        ({"mask": np.full((32, 32), np.nan), "image": True}, "mask has values from nan to nan"),
        ({"mask": np.zeros((3, 32, 32)), "image": True}, "3 masks for 1 example; allowed: as many, or one"),
        ({"guidance_end": 1.5}, "guidance_end is 1.5; allowed: 0 to 1"),
    ],
)
def test_what_does_not_fit(arrays, options, message):
    cond, uncond, noise, image = arrays
    options = options | ({"image": image} if "image" in options else {})
    with pytest.raises(ValueError, match=message):
        models.stable_diffusion()(cond, uncond, steps=2, **options)


def test_guidance_that_ends(arrays):
    """The steps after the share are those of guidance 1."""
    pipe = models.stable_diffusion()
    cond, uncond, noise, _ = arrays
    options = {"latents": noise, "steps": 4}
    np.testing.assert_array_equal(
        pipe(cond, uncond, guidance=4.0, **options), pipe(cond, uncond, guidance=4.0, guidance_end=1.0, **options)
    )
    np.testing.assert_allclose(
        pipe(cond, uncond, guidance=4.0, guidance_end=0.0, **options), pipe(cond, guidance=1.0, **options), atol=1e-5
    )
    seen = {}
    for end in (1.0, 0.5):
        steps = seen[end] = []
        pipe(
            cond,
            uncond,
            guidance=4.0,
            guidance_end=end,
            on_step=lambda _, __, latents, steps=steps: steps.append(np.asarray(latents)),
            **options,
        )
    np.testing.assert_array_equal(seen[1.0][1], seen[0.5][1])
    assert np.abs(seen[1.0][2] - seen[0.5][2]).max() > 1e-3
