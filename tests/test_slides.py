"""Long sounds as strips and films: which seconds, from what noise, what the files hold, and what is refused."""

import io
import sys
from types import SimpleNamespace

import av
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from flax import nnx
from PIL import Image

import encoders
from jaxsd.audio import clip_from_samples, load_clip, open_sound, slide_clips
from jaxsd.commands.generate import run_generate
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.generation.drawing import Drawing
from jaxsd.generation.inputs import find_sounds
from jaxsd.generation.slides import Slide, write_slide
from jaxsd.generation.strips import LABEL_HEIGHT
from jaxsd.recipes.recipe import ModelRecord, Recipe, read_recipe
from jaxsd.runtime.bundled import TOY_SAMPLES
from jaxsd.runtime.files import StoredFile
from jaxsd.sound_to_image import Conditioning, SoundToImage, interpolate_embeddings, load_windows
from tests.helpers import models


@pytest.fixture
def long_sound(tmp_path, rng):
    """2.3 seconds of noise at 16 kHz in two channels."""
    path = tmp_path / "noise.flac"
    soundfile.write(path, 0.1 * rng.standard_normal((36_800, 2)), 16_000)
    return path


def test_windows_are_the_seconds_that_begin_there(long_sound):
    windows = slide_clips(open_sound(long_sound), 0.5, 100)
    assert [window.start for window in windows] == [0, 0.5, 1]
    for window in windows:
        np.testing.assert_array_equal(window.samples, load_clip(long_sound, window.start).samples)
    assert len(slide_clips(open_sound(long_sound), 0.5, 2)) == 2
    np.testing.assert_array_equal(slide_clips(open_sound(long_sound), 0.5, 2)[1].samples, windows[1].samples)


def test_windows_of_other_rates_short_sounds_and_arrays(tmp_path, rng):
    samples = np.sin(np.arange(110_250) / 30)
    for window in load_windows(samples, 0.7, rate=44_100):
        expected = clip_from_samples(samples, 44_100, window.clip.start).samples.astype(int)
        assert abs(window.clip.samples - expected).max() <= 2
    short = load_windows(0.1 * rng.standard_normal(8_000), 0.5, rate=16_000)
    assert len(short) == 1 and not short[0].clip.samples[8_000:].any()


@pytest.mark.parametrize(
    "hop, limit, message",
    [
        (0.0, None, "windows are 0.0 s apart; allowed: from 0.01"),
        (float("nan"), None, "windows are nan s apart"),
        (0.5, 0, "limit is 0; allowed: 1 or more"),
        (0.5, None, "lasts 7200 s, which are 14,399 windows of a second, one each 0.5 s; allowed: up to 600"),
    ],
)
def test_windows_that_cannot_be_are_refused(hop, limit, message):
    two_hours = np.zeros(7200 * 1000, np.int16)
    with pytest.raises(ValueError, match=message):
        load_windows(two_hours, hop, 1000, limit)


def test_embeddings_between_windows_are_on_the_line():
    embeddings = jnp.arange(3.0)[:, None, None] * jnp.ones((1, 77, 4))
    made = np.asarray(interpolate_embeddings(embeddings, 3))
    np.testing.assert_allclose(made[:, 0, 0], np.arange(9) / 4, atol=1e-6)
    np.testing.assert_array_equal(interpolate_embeddings(embeddings, 0), embeddings)


@pytest.mark.slow
def test_python_slides_from_one_noise(long_sound):
    encoder = encoders.create("chatgpt", width=24, depth=1, heads=2, mlp=8, rngs=nnx.Rngs(0))
    model = SoundToImage({"one": encoder}, models.stable_diffusion())
    times, images = model.slide(long_sound, hop=0.5, smooth=1, steps=2, seed=3)
    assert times == [0, 0.25, 0.5, 0.75, 1] and images.shape == (5, 32, 32, 3)
    alone = model(long_sound, start=0.5, steps=2, seed=3)
    np.testing.assert_allclose(images[2:3], alone, atol=1e-5)


@pytest.fixture
def films(long_sound, tmp_path, monkeypatch):
    """The files that are written of a slide of three windows, whose five images are gray, darker and darker."""

    def draw(self, cond, uncond, *, on_step, **_):
        on_step(1, 1, jnp.zeros(()))
        return np.ones((len(cond), 32, 32, 3)) * np.asarray(cond)[:, :1, :1, None]

    monkeypatch.setattr(StableDiffusion, "__call__", draw)
    cond = jnp.linspace(1, 0, 5)[:, None, None] * jnp.ones((1, 77, 24))
    drawing = Drawing(models.stable_diffusion(), Conditioning(cond, None), ["noise"] * 5, tmp_path / "out")
    recipe = Recipe(ModelRecord("toy", "ab"), slide=0.5, smooth=1)
    slide = Slide(open_sound(long_sound), 3, 0.5, 1)
    paths = write_slide(drawing, slide, recipe, (".png", ".webp", ".gif", ".mp4"))
    return {path.suffix: path for path in paths}


def test_a_strip_and_films_are_as_long_as_the_sound_and_say_how_they_were_made(films):
    assert [path.name for path in films.values()] == ["noise.png", "noise.webp", "noise.gif", "noise.mp4"]
    for path in films.values():
        recipe = read_recipe(path)
        assert (recipe.slide, recipe.smooth, recipe.width) == (0.5, 1, 32)
    strip = np.asarray(Image.open(films[".png"]))
    tiles = [strip[LABEL_HEIGHT + 16, left + 16, 0] for left in range(0, strip.shape[1], strip.shape[1] // 3)]
    assert tiles == [255, 128, 0]  # the windows alone
    for suffix, off in ((".webp", 1), (".gif", 10)):
        durations, grays = [], []
        film = Image.open(films[suffix])
        for number in range(film.n_frames):
            film.seek(number)
            film.load()
            durations.append(film.info["duration"])
            grays.append(np.asarray(film.convert("RGB")).mean())
        np.testing.assert_allclose(durations, [250, 250, 250, 250, 1300], atol=off)
        np.testing.assert_allclose(grays, [255, 191, 128, 64, 0], atol=3)


def test_a_film_has_its_sound(films, long_sound):
    with av.open(str(films[".mp4"])) as container:
        times = [float(frame.time) for frame in container.decode(video=0)]
        assert float(container.duration) / 1e6 == pytest.approx(2.3, abs=0.05)
    np.testing.assert_allclose(times, [0, 0.25, 0.5, 0.75, 1, 2.26], atol=0.01)
    heard, sound = (load_clip(path, 1.0).samples.astype(float) for path in (films[".mp4"], long_sound))
    spectra = [np.abs(np.fft.rfft(samples))[:2_000] for samples in (heard, sound)]
    assert np.corrcoef(*spectra)[0, 1] > 0.9


def test_folders_patterns_and_standard_input_are_sounds(tmp_path, monkeypatch):
    for name in ("b.wav", "a.wav", ".hidden"):
        (tmp_path / name).write_bytes((TOY_SAMPLES / "dog.wav").read_bytes())
    names = [getattr(path, "name", None) for path in find_sounds([str(tmp_path), str(tmp_path / "b*"), "dog"])]
    assert names == ["a.wav", "b.wav", "b.wav", "dog.wav"]
    data = (tmp_path / "a.wav").read_bytes()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    assert find_sounds(["-"]) == [StoredFile("standard input", data)]
    (tmp_path / "empty").mkdir()
    for name, message in ((tmp_path / "empty", "empty has no file"), (tmp_path / "*.mp3", "no file fits the pattern")):
        with pytest.raises(FileNotFoundError, match=message):
            find_sounds([str(name)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--audio", "dog", "--slide", "0.5", "--mix"], "--mix is not for --slide, which takes all of a sound"),
        (["--audio", "dog", "--slide", "0.5", "--window", "2"], "--window is not for --slide"),
        (["--text", "a", "--slide", "0.5"], "--slide draws one image of every window of a sound; give --audio"),
        (["--audio", "dog", "--slide", "0.5", "--count", "2"], "leave --count out"),
        (["--audio", "dog", "--smooth", "2"], "--smooth and --limit are for windows of a sound; give --slide"),
        (["--audio", "dog", "bell", "--slide", "1", "--out", "a.gif"], "--out a.gif is one file for 2 sounds"),
        (["--audio", "dog", "--window", "3"], "lasts 1.000 s; start must be from 0 to less than that, not 3.0"),
        (["--audio", "dog", "--slide", "1", "--smooth", "-1"], "smooth is -1; allowed: 0 or more"),
    ],
)
def test_flags_of_slides_that_do_not_fit_are_refused(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["generate.py", *arguments])
    with pytest.raises(ValueError, match=message):
        run_generate()
    assert not list(tmp_path.iterdir())
