"""Sounds as the page shows them."""

import io

import numpy as np
import pytest
import soundfile
from PIL import Image

from jaxsd.audio import RATE, AudioError, load_clip
from jaxsd.serving.sounds import draw_sound, read_sound


@pytest.fixture
def path(tmp_path):
    samples = np.zeros(3 * 8000)
    samples[12_000:20_000] = 0.5 * np.sin(np.arange(8000))
    soundfile.write(tmp_path / "a.wav", samples, 8000)
    return tmp_path / "a.wav"


def test_the_loudest_second_is_that_of_generate(path):
    sound = read_sound(path, 3)
    assert sound.seconds == 3 and sound.loudest == 1.5
    np.testing.assert_array_equal(load_clip(path, sound.loudest).samples, load_clip(path).samples)


def test_a_sound_beyond_the_limit_is_refused(path):
    with pytest.raises(AudioError, match=r"a.wav lasts more than 2.5 s; allowed: up to that"):
        read_sound(path, 2.5)


def test_the_figure_is_loud_where_the_sound_is(path):
    figure = np.asarray(Image.open(io.BytesIO(draw_sound(read_sound(path, 60)))).convert("RGB"), int)
    height, width, _ = figure.shape
    left, right = (round(width * (0.08 + 0.9 * second / 3)) for second in (1.6, 2.4))
    spectrogram = figure[height // 2 : height * 4 // 5].std(axis=(0, 2))
    assert RATE == 16_000 and spectrogram[left:right].mean() > 2 * spectrogram[width // 8 : width // 3].mean()
