"""From sounds and texts to the conditioning and the names of the pictures; the pictures themselves are not drawn."""

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import encoders
from jaxsd import generation
from jaxsd.audio import load_clip
from jaxsd.bundled import TOY_SAMPLES
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.generation import generate
from tests.helpers import models


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model and two encoders that fit it."""
    folder = tmp_path_factory.mktemp("trained")
    models.stable_diffusion().save_pretrained(folder / "sd")
    for seed, name in enumerate(("one", "two")):
        encoder = encoders.create("chatgpt", width=24, depth=1, heads=2, mlp=8, rngs=nnx.Rngs(seed))
        encoders.save(encoder, folder / name)
    return folder


@pytest.fixture
def drawn(monkeypatch):
    """The arguments of every call of the pipeline, which draws nothing."""
    calls = []

    def draw(self, cond, uncond, *, on_step, **others):
        calls.append({"cond": np.asarray(cond), "uncond": np.asarray(uncond), **others})
        on_step(1, 1, None)
        return np.zeros((len(cond), 8, 8, 3))

    monkeypatch.setattr(StableDiffusion, "__call__", draw)
    return calls


def heard(folder, name, clips):
    return np.asarray(nnx.jit(lambda model, pcm: model(pcm))(encoders.load(folder / name), clips))


def read(texts):
    return np.asarray(models.stable_diffusion().encode_text(texts))


def test_the_papers_conditioning(trained, drawn, tmp_path):
    """The mean over the encoders; with a text, the mean of that and the text; the same of silence and no text."""
    names = [str(trained / name) for name in ("one", "two")]
    sounds = ["dog.wav", "waves.wav"]
    about = {"sounds": sounds, "encoder_names": names, "model": trained / "sd", "unconditional": "silence"}
    generate(tmp_path, texts=["a dog"], **about)
    generate(tmp_path, **about)
    clips = np.stack([np.zeros(16_000, np.int16), *(load_clip(TOY_SAMPLES / sound).samples for sound in sounds)])
    rows = (heard(trained, "one", clips) + heard(trained, "two", clips)) / 2
    with_text, without = drawn
    np.testing.assert_allclose(with_text["cond"], (rows[1:] + read(["a dog"])) / 2, atol=1e-5)
    np.testing.assert_allclose(with_text["uncond"], (rows[:1] + read([""])) / 2, atol=1e-5)
    np.testing.assert_allclose(without["cond"], rows[1:], atol=1e-5)
    np.testing.assert_allclose(without["uncond"], rows[:1], atol=1e-5)


def test_texts_alone_and_a_negative_one(trained, drawn, tmp_path):
    texts = ["A dog, at night!", "rain"]
    paths = generate(tmp_path, texts=texts, negative="blurry", model=trained / "sd")
    assert [path.name for path in paths] == ["a-dog-at-night.png", "rain.png"]
    np.testing.assert_allclose(drawn[0]["cond"], read(texts), atol=1e-5)
    np.testing.assert_allclose(drawn[0]["uncond"], read(["blurry"]), atol=1e-5)
    assert drawn[0]["guidance"] == 7.5


def test_a_picture_is_that_of_its_sound_seed_and_number(trained, drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "MOST_PICTURES", 4)
    about = {"encoder_names": [str(trained / "one")], "model": trained / "sd", "seed": 5}
    paths = generate(tmp_path / "out", sounds=["dog.wav", "bell.wav"], count=3, **about)
    assert [path.name for path in paths] == [f"{x}{n}.png" for x in ("dog", "bell") for n in ("", "-2", "-3")]
    assert all(Image.open(path).size == (8, 8) for path in paths)
    conds = np.concatenate([call["cond"] for call in drawn])
    keys = np.concatenate([jax.random.key_data(call["key"]) for call in drawn])
    assert len(conds) == 8  # two batches of four, the last one filled up
    assert len({key.tobytes() for key in keys[:3]}) == 3
    np.testing.assert_array_equal(keys[:3], keys[3:6])
    generate(tmp_path / "out", sounds=["bell.wav"], **about)
    np.testing.assert_allclose(drawn[2]["cond"], conds[3:4], atol=1e-5)
    np.testing.assert_array_equal(jax.random.key_data(drawn[2]["key"])[0], keys[3])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "there is neither a sound nor a text to make a picture of; give --audio, --text or both"),
        (
            {"sounds": ["dog.wav"] * 3, "texts": ["a", "b"]},
            "texts are 2 and sounds are 3; allowed: as many, or one for",
        ),
        ({"sounds": ["dog.wav"], "count": 0}, "count is 0; allowed: 1 or more"),
        ({"sounds": ["dog.wav"], "dtype": "int8"}, "dtype is 'int8'; allowed: float32, bfloat16, float16"),
        ({"sounds": ["dog.wav"]}, "the encoder gemini makes rows of 128 numbers, where this model's U-Net takes 24"),
        ({"texts": ["a"], "strength": 2.0, "image": "picture.png"}, "strength is 2.0; allowed: above 0, up to 1"),
        ({"texts": ["a"], "image": "nowhere.png"}, "nowhere.png"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_drawn(trained, drawn, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 4)).save("picture.png")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        generate(tmp_path / "out", model=trained / "sd", **arguments)
    assert not drawn and not (tmp_path / "out").exists()
