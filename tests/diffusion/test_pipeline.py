"""What a user of the pipeline relies on."""

import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params
from PIL import Image

from jaxsd.clip.towers import TextModel
from jaxsd.diffusion import programs
from jaxsd.diffusion.diffusers_names import CALL_ARGUMENTS, LOADING_ARGUMENTS, PIPELINE_ATTRIBUTES, SOUND_ARGUMENTS
from jaxsd.diffusion.pipeline import (
    StableDiffusion,
    to_pil,
)
from jaxsd.diffusion.samplers import SAMPLERS, NoiseSchedule
from jaxsd.diffusion.sampling_defaults import SamplingDefaults
from jaxsd.diffusion.saving import scheduler_json
from jaxsd.diffusion.unet import UNet
from jaxsd.diffusion.vae import VAE
from jaxsd.pretrained.mapping import parameters
from jaxsd.runtime.bundled import TOY_MODEL
from jaxsd.runtime.files import read_json, write_json
from tests.helpers import models
from tests.helpers.processes import environment_of_devices

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pipe():
    return models.stable_diffusion()


@pytest.fixture
def cond(rng):
    return rng.standard_normal((3, 77, 24), np.float32)


def test_a_picture_does_not_depend_on_its_batch_mates(pipe, cond, rng):
    """Beyond rounding: not from noise, not from an image; and what texts become, in no bit on a CPU."""
    for arguments in ({}, {"image": rng.random((1, 32, 32, 3)), "strength": 0.7, "guidance_end": 0.5}):
        keys = jax.random.split(jax.random.key(0), 3)
        together = pipe(cond, steps=4, key=keys, **arguments)
        alone = [pipe(cond[index : index + 1], steps=4, key=keys[index : index + 1], **arguments) for index in range(3)]
        np.testing.assert_allclose(together, np.concatenate(alone), atol=2e-5)
    texts = ["a dog", "rain", "a bell at night"]
    np.testing.assert_array_equal(pipe.encode_text(texts)[1:2], pipe.encode_text("rain"))
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


PROGRAMS = programs.encode_images, programs.compute_keys_values, programs.denoise, programs.decode_images


def compiled():
    return [program._cache_size() for program in PROGRAMS]


def test_prompt_seed_guidance_steps_strength_sampler_and_progress_do_not_recompile(pipe, cond, rng):
    image = rng.random((1, 32, 32, 3))
    pipe(cond, steps=4, guidance=2, image=image, key=jax.random.key(0))
    before = compiled()
    pipe(cond + 1, cond, steps=3, guidance=7.5, key=jax.random.key(1))
    pipe(cond, steps=3, image=image, strength=0.7, on_step=lambda *_: None)
    pipe(cond, steps=2, sampler="euler")
    assert compiled() == before


def test_another_number_of_images_does_not_recompile(pipe, cond):
    one_by_one = pipe(cond, steps=2)
    six = np.concatenate([cond, cond[::-1]])
    images = pipe(six, steps=2)
    before = compiled()
    np.testing.assert_allclose(pipe(six[:5], steps=2), images[:5], atol=1e-5)
    np.testing.assert_allclose(images[:3], one_by_one, atol=1e-5)
    assert compiled() == before


def test_progress_and_previews(pipe, cond):
    """The latents of the last step are the picture; those before are on their way to it."""
    calls = []
    arguments = {"steps": 4, "sampler": "euler"}
    pictures = pipe(cond, on_step=lambda *call: calls.append(call), **arguments)
    np.testing.assert_array_equal(pictures, pipe(cond, **arguments))
    assert [call[:2] for call in calls] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    previews = np.stack([pipe.decode(latents) for *_, latents in calls])
    np.testing.assert_allclose(previews[-1], pictures, atol=1e-5)
    errors = np.square(previews - np.asarray(pictures)).mean(axis=(1, 2, 3, 4))
    assert errors[0] > errors[-2] > errors[-1]


def test_several_images_of_a_prompt_stand_side_by_side(pipe, cond, rng):
    keys, images = jax.random.split(jax.random.key(0), 4), rng.random((2, 32, 32, 3))
    options = {"steps": 2, "strength": 0.7, "key": keys}
    drawn = pipe(cond[:2], cond[1:], image=images, num_images_per_prompt=2, **options)
    np.testing.assert_array_equal(
        drawn, pipe(cond[[0, 0, 1, 1]], cond[[1, 1, 2, 2]], image=images[[0, 0, 1, 1]], **options)
    )
    with pytest.raises(ValueError, match="num_images_per_prompt is 0; allowed: 1 or more"):
        pipe(cond, num_images_per_prompt=0)


def test_a_callback_sees_and_changes_the_latents_of_every_step(pipe, cond):
    """As diffusers calls it; its latents are those of the next step, and the last ones those of the image."""
    calls, options = [], {"steps": 3, "sampler": "ddim", "output_type": "latent"}

    def watch(called, step, timestep, values):
        calls.append((called is pipe, step, timestep, values["latents"]))
        return values

    latents = pipe(cond, callback_on_step_end=watch, **options)
    assert [call[:3] for call in calls] == [(True, 0, 667.0), (True, 1, 334.0), (True, 2, 1.0)]
    np.testing.assert_array_equal(calls[-1][3], latents)
    np.testing.assert_array_equal(pipe(cond, **options, callback_on_step_end=lambda *_: {}), latents)

    def replace(pipe, step, timestep, values):
        return {"latents": calls[1][3][::-1]} if step == 1 else values

    swapped = pipe(cond, uncond=cond[::-1], callback_on_step_end=replace, **options)
    last = pipe(cond, uncond=cond[::-1], callback_on_step_end=lambda *_: {"latents": swapped}, **options)
    np.testing.assert_array_equal(last, swapped)
    assert np.abs(np.asarray(swapped - pipe(cond, uncond=cond[::-1], **options))).max() > 0.1
    for returned in (None, {"prompt_embeds": cond}, {"latents": cond}):
        with pytest.raises(ValueError, match="callback_on_step_end returned"):
            pipe(cond, callback_on_step_end=lambda *_, returned=returned: returned, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pipe: pipe(prompt="a dog"), "no argument 'prompt'; cond is its name here"),
        (lambda pipe: pipe("a dog", return_dict=False), "'return_dict'; the images are returned as they are"),
        (lambda pipe: pipe("a dog", magic=1), "takes no argument 'magic'$"),
        (
            lambda pipe: StableDiffusion.from_pretrained("x", torch_dtype="x"),
            "from_pretrained takes no .* dtype is its",
        ),
        (lambda pipe: pipe.load_lora_weights("x"), "has no 'load_lora_weights'; load_lora is its name here"),
        (lambda pipe: pipe.to("cuda"), "has no 'to'; jax.default_device chooses the device"),
    ],
)
def test_the_names_of_diffusers_lead_to_ours(pipe, call, message):
    with pytest.raises((TypeError, AttributeError), match=message):
        call(pipe)


def test_the_table_of_names_is_in_the_documents():
    text = (Path(__file__).parents[2] / "docs" / "stable-diffusion.md").read_text()
    for names in (CALL_ARGUMENTS, SOUND_ARGUMENTS, LOADING_ARGUMENTS, PIPELINE_ATTRIBUTES):
        assert not [name for name in names if f"`{name}`" not in text]


@pytest.mark.parametrize(("sampler", "calls"), [("ddim", 140), ("dpm++2m", 140), ("pndm", 141)])
def test_an_image_to_start_from_costs_its_share_of_the_steps(pipe, cond, monkeypatch, sampler, calls):
    """The paper's 200 steps at strength 0.7. PNDM takes its first step twice."""
    run = []

    def denoise(graph, mesh, params, shared, batch):
        run.append(shared)
        return batch.history, batch.history.xs[0]

    monkeypatch.setattr(programs, "denoise", denoise)
    pipe(cond[:1], steps=200, image=np.zeros((1, 32, 32, 3)), strength=0.7, sampler=sampler)
    assert len(run) == calls


def test_guidance_of_one_is_the_conditioning_alone(pipe, cond):
    alone = pipe(cond, guidance=1, steps=3)
    np.testing.assert_allclose(alone, pipe(cond, cond * 3, guidance=1 + 1e-6, steps=3), atol=1e-4)
    assert np.abs(np.asarray(alone) - np.asarray(pipe(cond, cond * 3, guidance=2, steps=3))).max() > 0.01


ON_TWO_DEVICES = """
import sys
import jax
import jax.numpy as jnp
import numpy as np
from tests.helpers import models
assert jax.local_device_count() == 2
arrays = np.load(sys.argv[1])
with jax.default_matmul_precision("highest"):
    pictures = models.stable_diffusion()(**arrays, steps=3, sampler="euler_a", guidance=3)
np.save(sys.argv[2], pictures)
"""


def test_devices_share_a_batch(pipe, cond, rng, tmp_path):
    """Three pictures on two devices are those of one."""
    arrays = {"cond": cond, "uncond": cond[:1] * 0.5, "image": rng.random((1, 32, 32, 3), np.float32)}
    np.savez(tmp_path / "in.npz", **arrays)
    command = [sys.executable, "-c", ON_TWO_DEVICES, tmp_path / "in.npz", tmp_path / "out.npy"]
    subprocess.run(command, check=True, env=environment_of_devices(2), cwd=Path(__file__).parents[2])
    expected = pipe(**arrays, steps=3, sampler="euler_a", guidance=3)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-5)


def test_a_text_that_is_cut_is_warned_of(pipe):
    with pytest.warns(UserWarning, match="a text has more than 77 tokens; not read: 'at night'$"):
        cut = pipe.encode_text(["a dog", "a red dog " * 25 + "at night"])
    with warnings.catch_warnings(action="error"):
        np.testing.assert_array_equal(cut, pipe.encode_text(["a dog", "a red dog " * 25]))


def test_sixteen_bits(tmp_path, pipe, cond, rng):
    """Parameters as asked for; softmax, statistics and the latents in float32 all the same."""
    pipe.save_pretrained(tmp_path)
    half = StableDiffusion.from_pretrained(tmp_path, dtype="bfloat16")
    assert {leaf.dtype for leaf in parameters(half.unet).values()} == {np.dtype("bfloat16")}
    x, t = jnp.asarray(rng.standard_normal((1, 24, 24, 4), np.float32)), jnp.ones(1)
    context = jnp.asarray(cond[:1])
    apply = nnx.jit(lambda unet: unet(x, t, context))
    rough, exact = np.asarray(apply(half.unet)), np.asarray(apply(pipe.unet))
    assert np.square(rough - exact).mean() < 0.05**2 * np.square(exact).mean()
    traced = jax.make_jaxpr(lambda x: half.unet(x, t, context))(x)
    sums = [op for op in operations(traced.jaxpr) if op.primitive.name in ("exp", "reduce_sum", "rsqrt")]
    assert len(sums) > 20 and {op.invars[0].aval.dtype for op in sums} == {np.dtype("float32")}


def operations(jaxpr):
    for op in jaxpr.eqns:
        yield op
        for inner in jaxprs_in_params(op.params):
            yield from operations(inner)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"height": 30}, "height is 30; allowed: multiples of 4"),
        ({"width": 0}, "width is 0; allowed: multiples of 4"),
        ({"sampler": "magic"}, "unknown sampler 'magic'; allowed: pndm, ddim, lms"),
        ({"steps": 0}, "steps is 0; allowed: 1 to 999"),
        ({"guidance": float("nan")}, "guidance is nan; allowed: a finite number"),
        ({"latents": np.zeros((2, 8, 8, 4))}, r"latents have shape \(2, 8, 8, 4\); allowed: \(3, height, width, 4\)"),
        ({"image": np.zeros((2, 8, 8, 3))}, "2 images for 3 examples; allowed: as many, or one"),
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


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_schedulers_class_names_the_sampler(tmp_path, sampler):
    schedule = NoiseSchedule(sampler=sampler, use_karras_sigmas=True)
    write_json(tmp_path / "scheduler_config.json", scheduler_json(schedule))
    assert NoiseSchedule.read(tmp_path / "scheduler_config.json") == schedule


def test_the_default_sampler_is_the_schedules(pipe, cond):
    other = StableDiffusion(pipe.unet, pipe.vae, pipe.text_encoder, None, NoiseSchedule(sampler="euler_a"))
    np.testing.assert_array_equal(other(cond, cond, steps=4), pipe(cond, cond, steps=4, sampler="euler_a"))


def test_what_is_assigned_or_changed_in_place_is_used(cond, rng):
    """As a pipeline made of the new parts."""
    parts = {
        "unet": models.randomised(partial(UNet, models.UNET), 10),
        "vae": models.randomised(partial(VAE, models.AUTOENCODER), 11),
        "text_encoder": models.randomised(partial(TextModel, models.TEXT), 12),
        "schedule": NoiseSchedule(sampler="euler"),
        "sampling": SamplingDefaults(guidance=2.0, steps=3),
    }
    image = rng.random((1, 32, 32, 3), np.float32)
    changed, before = models.stable_diffusion(), None
    for name, part in parts.items():
        setattr(changed, name, part)
        after = np.asarray(changed(cond[:1], image=image))
        assert before is None or np.abs(after - before).max() > 1e-3, name
        before = after
    unet, vae, text_encoder, *settings = parts.values()
    made = StableDiffusion(unet, vae, text_encoder, models.TOKENIZER, *settings)
    np.testing.assert_array_equal(before, made(cond[:1], image=image))
    made.unet.conv_out.bias[...] += 1
    assert np.abs(np.asarray(made(cond[:1], image=image)) - before).max() > 1e-3


def test_what_a_model_suggests_is_in_its_folder(pipe, cond, tmp_path):
    suggests = SamplingDefaults(guidance=2.0, steps=3, sampler="euler")
    parts = pipe.unet, pipe.vae, pipe.text_encoder, models.TOKENIZER, pipe.schedule
    StableDiffusion(*parts, suggests).save_pretrained(tmp_path)
    again = StableDiffusion.from_pretrained(tmp_path)
    assert again.sampling == suggests
    images = pipe(cond[:1], guidance=2.0, steps=3, sampler="euler")
    np.testing.assert_array_equal(again(cond[:1]), images)
    assert np.abs(np.asarray(again(cond[:1], steps=2)) - np.asarray(images)).max() > 1e-3


@pytest.mark.parametrize(
    "values, message",
    [
        ({"guidance": "high"}, "guidance is 'high'; allowed: a number"),
        ({"guidance": float("nan")}, "guidance is nan; allowed: a finite number"),
        ({"steps": 2.5}, "steps is 2.5; allowed: a whole number"),
        ({"steps": True}, "steps is True; allowed: a whole number"),
        ({"steps": 0}, "steps is 0; allowed: from 1"),
        ({"sampler": "magic"}, "sampler is 'magic'; allowed: pndm, ddim"),
        ({"step": 3}, "unknown key step; allowed: guidance, steps, sampler"),
    ],
)
def test_what_a_model_cannot_suggest(tmp_path, values, message):
    write_json(tmp_path / "sampling_config.json", values)
    with pytest.raises(ValueError, match=f"sampling_config.json: {message}"):
        SamplingDefaults.read(tmp_path)


def test_the_toy_world_suggests():
    assert SamplingDefaults.read(TOY_MODEL) == SamplingDefaults(guidance=3.0, steps=25)
    assert SamplingDefaults.read(TOY_MODEL / "clip") == SamplingDefaults(guidance=7.5, steps=50, sampler=None)


def test_missing_folder():
    with pytest.raises(FileNotFoundError, match="nowhere: no such file or folder"):
        StableDiffusion.from_pretrained("nowhere")


def test_prompts_stand_for_their_hidden_states(pipe):
    images = pipe("a dog", "rain", steps=2)
    np.testing.assert_array_equal(images, pipe(pipe.encode_text("a dog"), pipe.encode_text(["rain"]), steps=2))
