"""From sounds and prompts to image files: what is refused, what files are called, what an image depends on."""

import errno
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import soundfile
from flax import nnx
from PIL import Image

import encoders
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.generation import drawing as drawing_module
from jaxsd.generation.drawing import Drawing, write_images
from jaxsd.generation.files import output_paths
from jaxsd.generation.inputs import read_inputs
from jaxsd.sound_to_image import SoundToImage
from tests.helpers import models


@pytest.fixture(scope="module")
def model():
    encoder = encoders.create("chatgpt", width=24, depth=1, heads=2, mlp=8, rngs=nnx.Rngs(0))
    return SoundToImage({"one": encoder}, models.stable_diffusion())


@pytest.fixture
def drawn(monkeypatch):
    """The arguments of every call of the pipeline, which draws nothing."""
    calls = []

    def draw(self, cond, uncond, *, on_step, **others):
        calls.append({"cond": np.asarray(cond), "uncond": uncond, **others})
        on_step(1, 1, None)
        return np.zeros((len(cond), 8, 8, 3))

    monkeypatch.setattr(StableDiffusion, "__call__", draw)
    return calls


def test_prompts_alone_name_the_files(model, drawn, tmp_path):
    prompts = ["A dog, at night!", "rain"]
    inputs = read_inputs([], prompts, None)
    paths = write_images(Drawing(model.pipe, model.encode(prompts=prompts, negative="blurry"), inputs.stems, tmp_path))
    assert [path.name for path in paths] == ["a-dog-at-night.png", "rain.png"]
    conds = np.concatenate([call["cond"] for call in drawn])
    np.testing.assert_allclose(conds, model.pipe.encode_text(prompts), atol=1e-5)
    np.testing.assert_allclose(drawn[0]["uncond"], model.pipe.encode_text(["blurry"]), atol=1e-5)


def test_the_second_that_is_heard_is_told(tmp_path, rng, capsys):
    samples = rng.normal(0, 0.01, 80 * 1000)
    samples[72_000:75_000] *= 20
    soundfile.write(tmp_path / "long.wav", samples, 1000)
    read_inputs([str(tmp_path / "long.wav"), "dog"], [], None)
    said = capsys.readouterr().err
    assert re.fullmatch(r".*long.wav: the loudest second begins at 1:1[23]\.\d\d\n", said)


def test_an_image_is_that_of_its_sound_seed_and_number(model, drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(drawing_module, "MOST_IMAGES", 4)
    monkeypatch.setattr(drawing_module, "examples_at_once", lambda mesh, examples: examples)  # as on an accelerator
    inputs = read_inputs(["dog.wav", "bell"], [], None)
    conditioning = model.encode(inputs.clips)
    paths = write_images(Drawing(model.pipe, conditioning, inputs.stems, tmp_path / "out", count=3, seed=5))
    assert [path.name for path in paths] == [f"{x}{n}.png" for x in ("dog", "bell") for n in ("", "-2", "-3")]
    assert all(Image.open(path).size == (8, 8) for path in paths)
    conds = np.concatenate([call["cond"] for call in drawn])
    keys = np.concatenate([jax.random.key_data(call["key"]) for call in drawn])
    assert len(conds) == 8  # two batches of four, the last one filled up
    assert len({key.tobytes() for key in keys[:3]}) == 3
    np.testing.assert_array_equal(keys[:3], keys[3:6])
    write_images(Drawing(model.pipe, model.encode("bell.wav"), ["bell"], tmp_path / "out", seed=5))
    np.testing.assert_allclose(drawn[2]["cond"], conds[3:4], atol=1e-5)
    np.testing.assert_array_equal(jax.random.key_data(drawn[2]["key"])[0], keys[3])


def test_a_file_that_is_there_is_kept(tmp_path):
    (tmp_path / "dog.png").write_text("mine")
    assert output_paths(["dog", "dog"], tmp_path, 1, False) == [tmp_path / "dog-2.png", tmp_path / "dog-3.png"]
    assert output_paths(["dog"], tmp_path, 2, True) == [tmp_path / "dog.png", tmp_path / "dog-2.png"]


def test_two_at_once_lose_no_image_and_a_full_disk_leaves_none(model, drawn, tmp_path, monkeypatch):
    out = tmp_path / "out"
    conditioning = model.encode("dog")
    monkeypatch.setattr(drawing_module, "output_paths", lambda *_: [out / "dog.png"])  # both asked at the same time
    paths = [write_images(Drawing(model.pipe, conditioning, ["dog"], out, seed=seed))[0] for seed in (0, 1)]
    assert [path.name for path in paths] == ["dog.png", "dog-2.png"]
    assert {path.name for path in out.iterdir()} == {"dog.png", "dog-2.png"}

    def full(self, path, **_):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    for overwrite in (True, False):
        with pytest.raises(OSError, match="No space left"):
            write_images(Drawing(model.pipe, conditioning, ["dog"], out, overwrite=overwrite))
    assert {path.name for path in out.iterdir()} == {"dog.png", "dog-2.png"}
    Image.open(out / "dog.png").verify()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([], [], None), "there is neither a sound nor a text to make an image of; give --audio, --text or both"),
        ((["dog.wav"] * 3, ["a", "b"], None), "2 texts for 3 sounds; allowed: as many, or one for all"),
        ((["nowhere"], [], None), "nowhere: no such file, nor a sample sound of that name; the samples are bell, bird"),
        ((["Dgo.mp3"], [], None), "Dgo.mp3: no such file, nor a sample sound of that name; did you mean dog?"),
        (([], ["a"], "nowhere.png"), "nowhere.png"),
    ],
)
def test_inputs_that_cannot_be_are_refused(arguments, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_inputs(*arguments)


@pytest.mark.parametrize(
    "sampling, message",
    [
        ({"steps": 0}, "steps is 0; allowed"),
        ({"sampler": "magic"}, "unknown sampler 'magic'"),
        ({"strength": 2.0}, "strength is 2.0; allowed: above 0, up to 1"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_drawn(model, drawn, tmp_path, sampling, message):
    sampling = {"image": Image.new("RGB", (4, 4))} | sampling
    with pytest.raises(ValueError, match=message):
        write_images(Drawing(model.pipe, model.encode("dog"), ["dog"], tmp_path / "out", sampling=sampling))
    with pytest.raises(ValueError, match="count is 0; allowed: 1 or more"):
        Drawing(model.pipe, model.encode("dog"), ["dog"], tmp_path / "out", count=0)
    assert not drawn and not (tmp_path / "out").exists()
