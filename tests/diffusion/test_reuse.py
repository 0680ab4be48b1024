"""Steps that reuse deep features, and attention over merged tokens: literal computations beside them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxsd.diffusion import programs
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.diffusion.token_merging import merge_similar
from tests.diffusion.test_parity import load_torch, set_scheduler
from tests.helpers import models

pytestmark = pytest.mark.slow

PROGRAMS = programs.denoise, programs.denoise_caching, programs.denoise_reusing


@pytest.fixture(scope="module")
def pipe(folder):
    return StableDiffusion.from_pretrained(folder)


@pytest.fixture
def arrays(rng):
    cond, uncond = rng.standard_normal((2, 1, 77, 24), np.float32)
    return {"cond": cond, "uncond": uncond, "latents": rng.standard_normal((1, 8, 8, 4), np.float32)}


def test_reused_features_are_those_of_diffusers_unet_with_its_deep_map_replaced(pipe, folder, arrays):
    """The map that goes into the second last layer of diffusers' U-Net is replaced by that of an earlier step."""
    theirs = load_torch(folder)
    set_scheduler(theirs, "ddim")
    kept, calls = [], []

    def replace(resnet, inputs):
        x, *rest = inputs
        width = x.shape[1] - resnet.skip_width
        if len(calls) % 3 == 0:
            kept[:] = [x[:, :width]]
        calls.append(0)
        return torch.cat([kept[0], x[:, width:]], 1), *rest

    resnet = theirs.unet.up_blocks[-1].resnets[-2]
    resnet.skip_width = models.UNET.block_out_channels[0]
    resnet.register_forward_pre_hook(replace)
    cond, uncond = (torch.tensor(arrays[name]) for name in ("cond", "uncond"))
    with torch.no_grad():
        expected = theirs(
            prompt_embeds=cond,
            negative_prompt_embeds=uncond,
            latents=torch.tensor(arrays["latents"]).permute(0, 3, 1, 2),
            num_inference_steps=7,
            guidance_scale=4.0,
            output_type="np",
        ).images
    options = arrays | {"steps": 7, "guidance": 4.0, "sampler": "ddim"}
    images = pipe(**options, cache_interval=3)
    np.testing.assert_allclose(images, expected, atol=1e-3)
    assert np.abs(np.asarray(images) - np.asarray(pipe(**options))).max() > 0.01


def test_another_interval_compiles_nothing_and_guidance_that_stops_begins_anew(pipe, arrays):
    options = arrays | {"guidance": 4.0, "sampler": "ddim"}
    pipe(**options, steps=4, cache_interval=2, guidance_end=0.5)
    before = [program._cache_size() for program in PROGRAMS]
    ends = pipe(**options, steps=4, cache_interval=4, guidance_end=0.75)
    assert [program._cache_size() for program in PROGRAMS] == before
    np.testing.assert_array_equal(ends, pipe(**options, steps=4, cache_interval=5, guidance_end=0.75))


def merged_literally(x, y, height, width, share):
    """Token by token: `y` with the tokens merged as those of `x`, and what each token gets back of the rows."""
    normed = x / np.linalg.norm(x, axis=-1, keepdims=True)
    places = [(row, column) for row in range(height) for column in range(width)]
    inside = [row < height // 2 * 2 and column < width // 2 * 2 for row, column in places]
    destinations = [n for n, (row, column) in enumerate(places) if inside[n] and row % 2 == column % 2 == 0]
    nearest = {}
    for token in sorted(set(range(len(places))) - set(destinations)):
        similar = [float(normed[token] @ normed[other]) for other in destinations]
        nearest[token] = max(similar), destinations[int(np.argmax(similar))]
    merged = sorted(nearest, key=lambda token: -nearest[token][0])[: int(share * len(places))]
    rows = {}
    for token in range(len(places)):
        if token not in merged:
            group = [token, *(other for other in merged if nearest[other][1] == token)]
            rows[token] = np.mean(y[group], axis=0)
    return rows, np.stack([rows[nearest[token][1] if token in merged else token] for token in range(len(places))])


@pytest.mark.parametrize("height, width, share", [(7, 9, 0.3), (1, 5, 0.5)])
def test_tokens_are_merged_into_the_most_similar_and_get_back_what_came_of_them(rng, height, width, share):
    x, y = rng.standard_normal((2, 2, height * width, 5), np.float32)

    @jax.jit
    def merge_and_back(x, y):
        merging = merge_similar(x, height, width, share)
        return merging.merge(y), merging.unmerge(merging.merge(y))

    left, back = merge_and_back(jnp.asarray(x), jnp.asarray(y))
    for example in range(2):
        if height == 1:  # there is no 2 x 2 of them
            np.testing.assert_array_equal(back[example], y[example])
            continue
        rows, expected = merged_literally(x[example], y[example], height, width, share)
        assert left.shape[1] == len(rows) == height * width - int(share * height * width)
        np.testing.assert_allclose(back[example], expected, atol=1e-6)


def test_merged_tokens_change_the_image_and_leave_the_model(pipe, arrays):
    plain, none, half = (
        np.asarray(pipe(**arrays, steps=2, **options))
        for options in ({}, {"merge_tokens": 0.0, "cache_interval": 1}, {"merge_tokens": 0.5})
    )
    np.testing.assert_array_equal(plain, none)
    assert np.abs(half - plain).mean() > 1e-4
    np.testing.assert_array_equal(plain, pipe(**arrays, steps=2))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"cache_interval": 0}, "cache_interval is 0; allowed: 1 or more"),
        ({"merge_tokens": 0.8}, "merge_tokens is 0.8; allowed: 0 to 0.75"),
    ],
)
def test_other_values_are_refused(pipe, arrays, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        pipe(**arrays, **options)
