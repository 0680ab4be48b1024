"""SoundToImage: what it conditions on, what it takes as sound, and that a second call loads and compiles nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from flax import nnx
from PIL import Image

import encoders
from jaxsd.audio import AudioError, load_clip
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.generation.drawing import Drawing, write_images
from jaxsd.runtime.bundled import TOY_SAMPLES
from jaxsd.sound_to_image import SoundToImage, image_keys, load_clips
from tests.helpers import models

pytestmark = pytest.mark.slow


def small_encoder(seed: int, width: int = 24) -> nnx.Module:
    return encoders.create("chatgpt", width=width, depth=1, heads=2, mlp=8, rngs=nnx.Rngs(seed))


@pytest.fixture(scope="module")
def pipe():
    return models.stable_diffusion()


@pytest.fixture(scope="module")
def model(pipe):
    return SoundToImage({"one": small_encoder(0), "two": small_encoder(1)}, pipe)


@pytest.fixture(scope="module")
def clips():
    return np.stack([load_clip(TOY_SAMPLES / f"{name}.wav").samples for name in ("dog", "waves", "organ")])


def encoded(encoder, clips):
    return np.asarray(nnx.jit(lambda encoder, clips: encoder(clips))(encoder, clips))


def test_the_papers_conditioning(model, pipe, clips):
    """The mean over the encoders; with a prompt, the mean of that and the prompt; the same of silence and no prompt."""
    one, two = model.encoders.values()
    audio = (encoded(one, clips) + encoded(two, clips)) / 2
    silent = np.zeros((1, 16_000), np.int16)
    silence = (encoded(one, silent) + encoded(two, silent)) / 2
    text, empty = pipe.encode_text(["a dog"]), pipe.encode_text([""])

    alone = model.encode(clips, unconditional="silence")
    np.testing.assert_allclose(alone.cond, audio, atol=1e-5)
    np.testing.assert_allclose(alone.uncond, silence, atol=1e-5)
    with_text = model.encode(clips, "a dog", unconditional="silence")
    np.testing.assert_allclose(with_text.cond, (audio + text) / 2, atol=1e-5)
    np.testing.assert_allclose(with_text.uncond, (silence + empty) / 2, atol=1e-5)
    np.testing.assert_allclose(model.encode(clips).uncond, empty, atol=1e-5)
    np.testing.assert_allclose(model.encode(clips, negative="rain").uncond, pipe.encode_text(["rain"]), atol=1e-5)
    np.testing.assert_allclose(model.encode(prompts="a dog").cond, text, atol=1e-5)


def test_weights_are_shares(pipe, clips):
    parts = {"one": small_encoder(0), "two": small_encoder(1)}
    weighted = SoundToImage(parts, pipe, weights=[3, 1]).encode(clips).cond
    one, two = (encoded(encoder, clips) for encoder in parts.values())
    np.testing.assert_allclose(weighted, 0.75 * one + 0.25 * two, atol=1e-5)


def test_mixes_are_the_papers_means_and_weighted_ones(model, pipe, clips):
    one, two = model.encoders.values()
    audio = (encoded(one, clips) + encoded(two, clips)) / 2
    text, empty = pipe.encode_text(["a dog"]), pipe.encode_text([""])
    np.testing.assert_allclose(model.encode(clips, mix=True).cond, audio.mean(0, keepdims=True), atol=1e-5)
    mixed = model.encode(clips, "a dog", mix=True, sound_weights=[2, 1, 1], alpha=0.3, unconditional="silence")
    weighted = (2 * audio[:1] + audio[1:2] + audio[2:]) / 4
    np.testing.assert_allclose(mixed.cond, 0.7 * weighted + 0.3 * text, atol=1e-5)
    silent = np.zeros((1, 16_000), np.int16)
    silence = (encoded(one, silent) + encoded(two, silent)) / 2
    np.testing.assert_allclose(mixed.uncond, 0.7 * silence + 0.3 * empty, atol=1e-5)


def test_random_embeddings_are_normal_and_of_their_key(model):
    keys = image_keys(0, range(20))
    cond, uncond = model.random(keys)
    assert cond.shape == uncond.shape == (20, 77, 24) and not np.allclose(cond, uncond)
    assert abs(float(cond.mean())) < 0.02 and abs(float(cond.std()) - 1) < 0.02
    np.testing.assert_array_equal(model.random(keys[3:4]).cond, cond[3:4])


def test_defaults_are_the_models_or_the_papers(model):
    assert (model.sampling_defaults().guidance, model.sampling_defaults().steps) == (7.5, 100)
    assert (model.sampling_defaults(image=True).guidance, model.sampling_defaults(image=True).steps) == (10, 200)
    (alone,), (from_image,) = model.recipes(), model.recipes(image=Image.new("RGB", (8, 8)))
    assert (alone.guidance, alone.steps, alone.strength) == (7.5, 100, None)
    assert (from_image.guidance, from_image.steps, from_image.strength) == (10, 200, 0.7)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"alpha": float("nan")}, "alpha is nan; allowed: 0 to 1"),
        ({"alpha": 1.5}, "alpha is 1.5; allowed: 0 to 1"),
        ({"sound_weights": [1, 1, 1]}, "sound_weights need mix=True"),
        ({"mix": True, "sound_weights": [1, 1]}, "2 weights for 3 sounds; allowed: as many"),
        ({"mix": True, "sound_weights": [1, 1, -2]}, "weights are"),
        ({"mix": True, "sound_weights": [0, 0, 0]}, "weights are"),
    ],
)
def test_mixes_that_cannot_be_are_refused(model, clips, options, message):
    with pytest.raises(ValueError, match=message):
        model.encode(clips, "a dog", **options)


@pytest.mark.parametrize("weights", [[1], [1, -1], [0, 0], [1, float("nan")]])
def test_weights_that_do_not_fit_are_refused(pipe, weights):
    with pytest.raises(ValueError, match="weight"):
        SoundToImage({"one": small_encoder(0), "two": small_encoder(1)}, pipe, weights)


def test_models_say_what_they_are(model):
    lines = repr(model).splitlines()
    assert lines[0] == "SoundToImage"
    assert lines[1].startswith("  50% one: ChatGPT(width=24, depth=1")
    assert lines[3].startswith("  StableDiffusion: images of 32 x 32 pixels; million parameters: U-Net 0.")


def test_a_second_call_compiles_nothing(model, clips):
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    )
    options = {"steps": 2, "guidance": 2.0}
    jax.clear_caches()  # another file's tests may have compiled the same
    first = model(clips[:1], **options)
    assert compiled  # the listener hears
    compiled.clear()
    again = model(clips[:1], **options)
    assert not compiled
    np.testing.assert_array_equal(first, again)


def test_a_sound_does_not_depend_on_its_batch(model, clips):
    together = model.encode(clips).cond
    alone = np.concatenate([model.encode(clip).cond for clip in clips])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_guidance_of_one_needs_no_unconditional_embedding(model, clips, monkeypatch):
    asked = []

    def draw(self, cond, uncond, **_):
        asked.append(uncond)
        return jnp.zeros((len(cond), 8, 8, 3))

    monkeypatch.setattr(StableDiffusion, "__call__", draw)
    model(clips, guidance=1)
    model(clips)
    assert asked[0] is None and asked[1] is not None


def test_sounds_are_files_samples_and_arrays(tmp_path, clips):
    path = tmp_path / "dog.flac"
    soundfile.write(path, clips[0], 16_000)
    np.testing.assert_array_equal(load_clips(path), clips[:1])
    np.testing.assert_array_equal(load_clips("dog"), clips[:1])
    np.testing.assert_array_equal(load_clips(["dog.wav", clips[1]]), clips[:2])
    np.testing.assert_array_equal(load_clips(clips), clips)
    np.testing.assert_array_equal(load_clips(clips[0] / np.float32(32768), 16_000), clips[:1])


def test_arrays_of_any_rate_are_heard_as_files_are(tmp_path, rng):
    samples = (0.1 * rng.normal(size=100_000)).astype(np.float32)
    samples[60_000:90_000] *= 4
    soundfile.write(tmp_path / "noise.wav", samples, 44_100, subtype="FLOAT")
    np.testing.assert_array_equal(load_clips(samples, 44_100)[0], load_clip(tmp_path / "noise.wav").samples)


def test_which_second_of_a_longer_sound_is_heard_is_said(capsys):
    samples = np.zeros(44_100 * 110, np.float32)
    samples[44_100 * 102 : 44_100 * 103] = 0.5 * np.sin(np.arange(44_100) / 16)
    load_clips(samples, rate=44_100)
    assert capsys.readouterr().err == "the array of samples: the loudest second begins at 1:42.00\n"
    load_clips("dog")  # a second long
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    "audio, rate, message",
    [
        (np.zeros(16_000, np.float32), None, r"float32 of shape \(16000,\); without rate"),
        (np.zeros(8_000, np.int16), None, r"int16 of shape \(8000,\); without rate"),
        (np.full(16_000, np.nan, np.float32), 16_000, "NaN or infinite"),
        (np.zeros(0, np.float32), 16_000, r"shape \(0,\)"),
        (np.zeros(100, np.complex64), 16_000, "complex64"),
        (np.zeros(100, np.float32), 0, "rate of 0"),
        ([], None, "audio is empty"),
    ],
)
def test_arrays_that_are_no_sounds_are_refused(audio, rate, message):
    with pytest.raises((ValueError, AudioError), match=message):
        load_clips(audio, rate)


def test_an_encoder_of_another_width_is_named(pipe):
    with pytest.raises(ValueError, match="embeddings of encoder wide are 32 wide, and this model's U-Net takes 24"):
        SoundToImage({"wide": small_encoder(0, width=32)}, pipe)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "neither a sound nor a prompt"),
        ({"audio": ["dog", "bell", "waves"], "prompts": ["a", "b"]}, "2 prompts for 3 sounds"),
        ({"audio": "dog", "unconditional": "noise"}, "unconditional is 'noise'; allowed: text, silence"),
    ],
)
def test_what_cannot_be_encoded_is_refused(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.encode(**arguments)


def test_the_bundled_models_draw_what_they_hear():
    model = SoundToImage.from_pretrained("gemini")
    image = np.asarray(model("dog", steps=4))
    assert image.shape == (1, 64, 64, 3) and image.std() > 0.02
    np.testing.assert_allclose(image, model("dog", steps=4, guidance=3.0))


def test_images_are_those_of_the_command(tmp_path):
    """And each is a function of its own sound and the seed."""
    model = SoundToImage.from_pretrained()
    options = {"steps": 4, "seed": 3}
    (path,) = write_images(
        Drawing(model.pipe, model.encode("organ"), ["organ"], tmp_path, seed=3, sampling={"steps": 4})
    )
    together = model(["dog", "organ"], **options)
    np.testing.assert_allclose(together[1], np.asarray(Image.open(path)) / 255, atol=0.51 / 255)


def test_an_encoder_for_another_model_is_refused_before_anything_is_loaded(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    for weights in tmp_path.glob("*/*.safetensors"):
        weights.unlink()
    with pytest.raises(ValueError, match="encoder gemini makes embeddings of width 128, and the U-Net of .* takes 24"):
        SoundToImage.from_pretrained(["gemini"], tmp_path)
