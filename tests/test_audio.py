"""Clips from sound files of many kinds."""

import numpy as np
import pytest
import soundfile

from jaxsd.audio import AudioError, load_clip

LEVEL = 0.5


def tone(hz: float, seconds: float, rate: int, level: float = LEVEL) -> np.ndarray:
    return level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


def write(path, samples, rate=16_000, **kwargs):
    soundfile.write(path, samples, rate, **kwargs)
    return path


def spectrum_peak(clip: np.ndarray) -> tuple[int, float]:
    """Frequency in Hz and amplitude of the strongest bin; bins of a one-second clip are 1 Hz."""
    amplitude = np.abs(np.fft.rfft(clip / 32768)) * 2 / len(clip)
    return int(amplitude.argmax()), float(amplitude.max())


FILES = [
    ("a.wav", 16_000, "PCM_16"),
    ("a.wav", 44_100, "PCM_U8"),
    ("a.wav", 48_000, "PCM_24"),
    ("a.wav", 11_025, "PCM_32"),
    ("a.wav", 22_050, "FLOAT"),
    ("a.wav", 96_000, "DOUBLE"),
    ("a.wav", 8_000, "ULAW"),
    ("a.aiff", 32_000, "PCM_16"),
    ("a.flac", 192_000, "PCM_24"),
    ("a.ogg", 44_100, "VORBIS"),
    ("a.ogg", 48_000, "OPUS"),
    ("a.mp3", 44_100, "MPEG_LAYER_III"),
]


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize(("name", "rate", "subtype"), FILES)
def test_a_tone_keeps_its_pitch_and_level(tmp_path, name, rate, subtype, channels):
    if name == "a.mp3" and channels > 2:
        pytest.skip("MP3 has at most two channels")
    samples = np.tile(tone(1000, 1.7, rate)[:, None], (1, channels))
    clip = load_clip(write(tmp_path / name, samples, rate, subtype=subtype))
    assert clip.dtype == np.int16 and clip.shape == (16_000,)
    hz, amplitude = spectrum_peak(clip)
    assert hz == 1000
    assert amplitude == pytest.approx(LEVEL, rel=0.02)


def test_sixteen_bit_samples_at_16_khz_come_back_unchanged(tmp_path):
    samples = np.random.default_rng(0).integers(-32768, 32768, 16_000).astype(np.int16)
    np.testing.assert_array_equal(load_clip(write(tmp_path / "a.wav", samples)), samples)


def test_channels_are_averaged(tmp_path):
    samples = np.stack([tone(500, 1, 16_000), np.zeros(16_000)], axis=1)
    hz, amplitude = spectrum_peak(load_clip(write(tmp_path / "a.wav", samples)))
    assert hz == 500 and amplitude == pytest.approx(LEVEL / 2, rel=1e-3)


def test_tones_above_8_khz_are_removed_not_folded(tmp_path):
    clip = load_clip(write(tmp_path / "a.wav", tone(12_000, 2, 48_000), 48_000), start=0.5)
    assert abs(clip.astype(int)).max() <= 2


def test_a_short_file_is_followed_by_zeros(tmp_path):
    clip = load_clip(write(tmp_path / "a.wav", tone(1000, 0.25, 44_100), 44_100))
    assert abs(clip[:4000].astype(int)).max() > 16_000
    assert abs(clip[4100:].astype(int)).max() < 100


def test_one_sample_is_enough(tmp_path):
    clip = load_clip(write(tmp_path / "a.wav", np.array([1000], np.int16)))
    assert clip[0] == 1000 and not clip[1:].any()


@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100])
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_the_loudest_second_is_found(tmp_path, name, rate):
    samples = np.concatenate([tone(300, 3.37, rate, 0.05), tone(1000, 1, rate, 0.6), tone(600, 2.5, rate, 0.1)])
    clip = load_clip(write(tmp_path / name, samples, rate))
    hz, amplitude = spectrum_peak(clip)
    assert hz == 1000
    assert amplitude > 0.58  # at most 10 ms, and a codec's blur, beside the loud second


def test_the_loudest_second_has_no_edges_from_resampling(tmp_path):
    whole = tone(1000, 4, 48_000)
    samples = whole * np.repeat([0.2, 1, 1, 0.2], 48_000)
    clip = load_clip(write(tmp_path / "a.wav", samples, 48_000, subtype="FLOAT"), start=1.5)
    np.testing.assert_allclose(clip, tone(1000, 1, 16_000) * 32768, atol=1)


def test_the_first_of_equally_loud_seconds_is_taken(tmp_path):
    samples = np.concatenate([np.zeros(8000), tone(440, 6, 16_000)])
    expected = tone(440, 1, 16_000) * 32768
    np.testing.assert_allclose(load_clip(write(tmp_path / "a.wav", samples)), expected, atol=1)


def test_silence_stays_silent(tmp_path):
    assert not load_clip(write(tmp_path / "a.wav", np.zeros(50_000))).any()


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_start_chooses_the_second(tmp_path, name):
    samples = np.concatenate([tone(hz, 1, 44_100) for hz in (400, 800, 1200)])
    path = write(tmp_path / name, samples, 44_100)
    assert [spectrum_peak(load_clip(path, start=second))[0] for second in (0, 1, 2)] == [400, 800, 1200]


def test_start_near_the_end_is_followed_by_zeros(tmp_path):
    clip = load_clip(write(tmp_path / "a.wav", np.full(32_000, 0.5)), start=1.75)
    assert (clip[:4000] == 16_384).all() and not clip[4000:].any()


def test_values_beyond_full_scale_are_clipped_and_others_rounded(tmp_path):
    samples = np.array([2, -2, 1, -1, 0.6 / 32768, -0.6 / 32768, 0.4 / 32768])
    clip = load_clip(write(tmp_path / "a.wav", samples, subtype="FLOAT"))
    assert clip[:7].tolist() == [32767, -32768, 32767, -32768, 1, -1, 0]


def test_a_long_file_is_not_held_in_memory(tmp_path, monkeypatch):
    samples = np.zeros(16_000 * 60, np.int16)
    samples[16_000 * 41 : 16_000 * 42] = 9000
    path = write(tmp_path / "a.wav", samples)
    largest, read = 0, soundfile.SoundFile.read

    def measured(self, frames=-1, *args, **kwargs):
        nonlocal largest
        block = read(self, frames, *args, **kwargs)
        largest = max(largest, len(block))
        return block

    monkeypatch.setattr(soundfile.SoundFile, "read", measured)
    assert (load_clip(path) == 9000).all()
    assert largest <= 3 * 16_000


@pytest.mark.parametrize("start", [-0.1, 2.0, 7, float("nan"), float("inf")])
def test_a_start_outside_the_file_is_refused(tmp_path, start):
    path = write(tmp_path / "a.wav", np.zeros(32_000))
    with pytest.raises(AudioError, match=r"a\.wav lasts 2\.000 s; start must be from 0 to less than that, not"):
        load_clip(path, start=start)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("seconds", [0.5, 3])
def test_samples_that_are_not_finite_are_refused(tmp_path, bad, seconds):
    samples = tone(440, seconds, 16_000)
    samples[100] = bad
    path = write(tmp_path / "a.wav", samples, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"a\.wav has samples that are NaN or infinite"):
        load_clip(path)


def test_files_that_hold_no_sound_are_refused_by_name(tmp_path):
    (tmp_path / "notes.txt").write_text("these are no sounds\n" * 100)
    (tmp_path / "notes.wav").write_text("these are no sounds\n" * 100)
    (tmp_path / "nothing.wav").touch()
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "samples.raw").write_bytes(bytes(1000))
    write(tmp_path / "silent.wav", np.zeros(0))
    write(tmp_path / "slow.wav", np.zeros(100), 10)
    write(tmp_path / "whole.flac", tone(440, 3, 16_000))
    (tmp_path / "cut.flac").write_bytes((tmp_path / "whole.flac").read_bytes()[:60])
    reasons = {
        "missing.wav": "does not exist; give a file in WAV, FLAC, OGG, MP3",
        "folder.wav": "is not a file; give a",
        "nothing.wav": "is empty; give a",
        "notes.txt": "cannot be read as sound (Format not recognised); give a file in WAV, FLAC, OGG, MP3",
        "notes.wav": "cannot be read as sound (Format not recognised); give a",
        "samples.raw": "cannot be read as sound (",
        "silent.wav": "holds no samples; give a",
        "slow.wav": "has a rate of 10 Hz; it must be from 1000 to 768000",
        "cut.flac": "cannot be read as sound (",
    }
    for name, reason in reasons.items():
        with pytest.raises(AudioError) as caught:
            load_clip(tmp_path / name)
        assert f"{name} {reason}" in str(caught.value)
        assert "\n" not in str(caught.value)
