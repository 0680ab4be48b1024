"""Spectrograms against librosa, a second opinion beside the PyTorch modules."""

import librosa
import numpy as np

from encoders.spectrogram import decibels_below_peak, mel_spectrogram, power_spectrum, waveform


def clips() -> np.ndarray:
    """(3, 16000) int16: noise, a tone that fades in, and a quiet click."""
    rng = np.random.default_rng(0)
    time = np.arange(16_000) / 16_000
    click = np.zeros(16_000)
    click[8000] = 40
    return np.stack([rng.normal(0, 6000, 16_000), 20_000 * time * np.sin(2 * np.pi * 700 * time), click]).astype(
        np.int16
    )


def test_mel_and_decibels_agree_with_librosa():
    mel = mel_spectrogram(waveform(clips()))
    db = decibels_below_peak(mel)
    options = {"n_fft": 1024, "hop_length": 210, "n_mels": 80, "fmax": 8000, "htk": True, "norm": None}
    for clip, ours, our_db in zip(clips(), mel, db, strict=True):
        theirs = librosa.feature.melspectrogram(
            y=clip.astype(np.float64) / 32767, sr=16_000, pad_mode="reflect", **options
        )
        np.testing.assert_allclose(ours.T, theirs, rtol=1e-4, atol=1e-6 * theirs.max())
        expected = librosa.power_to_db(theirs, ref=np.max, amin=1e-10, top_db=80)
        np.testing.assert_allclose(our_db.T, expected, atol=0.02)


def test_the_power_spectrum_agrees_with_librosa():
    power = power_spectrum(waveform(clips()), 256, 207)
    for clip, ours in zip(clips(), power, strict=True):
        theirs = abs(librosa.stft(clip.astype(np.float64) / 32767, n_fft=256, hop_length=207, center=False)) ** 2
        assert theirs.shape[1] >= 77
        np.testing.assert_allclose(ours.T, theirs[:, :77], rtol=1e-4, atol=1e-6 * theirs.max())
