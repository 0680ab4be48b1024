"""Sounds from outside the training recipes: the ten classes by other synthesis, and recordings spoilt in other ways."""

import io
from collections.abc import Callable

import numpy as np
import soundfile
import soxr
from scipy import signal

from jaxsd.toy import world

RATE = 16_000
TIME = np.arange(RATE) / RATE

Rng = np.random.Generator


def noise(rng: Rng, low: float, high: float) -> np.ndarray:
    """Band-limited noise of unit deviation, by a Butterworth filter."""
    sound = signal.sosfilt(signal.butter(2, (low, high), "bandpass", fs=RATE, output="sos"), rng.standard_normal(RATE))
    return sound / sound.std()


def struck(start: float, decay: float) -> np.ndarray:
    """Envelope of something struck at `start` that dies away with time constant `decay`, seconds."""
    return np.where(TIME >= start, np.exp(-np.maximum(TIME - start, 0.0) / decay), 0.0)


def bell(rng: Rng) -> np.ndarray:
    """Frequency modulation with an inharmonic ratio (Chowning 1973)."""
    pitch, start, decay = rng.uniform(300, 1200), rng.uniform(0, 0.2), rng.uniform(0.4, 1.2)
    index = 4 * struck(start, decay / 2)
    return struck(start, decay) * np.sin(2 * np.pi * pitch * TIME + index * np.sin(2 * np.pi * 1.4 * pitch * TIME))


def bird(rng: Rng) -> np.ndarray:
    """Chirps that sweep up or down."""
    sound = np.zeros(RATE)
    length = rng.uniform(0.06, 0.14)
    for start in np.arange(rng.uniform(0, 0.2), 1 - length, length * rng.uniform(1.4, 2.0)):
        inside = (TIME >= start) & (TIME < start + length)
        t = TIME[inside] - start
        low, high = np.sort(rng.uniform(2200, 6000, 2))[:: rng.choice([-1, 1])]
        sound[inside] = signal.chirp(t, low, length, high) * signal.windows.hann(len(t))
    return sound


def bonfire(rng: Rng) -> np.ndarray:
    """Bursts of noise a few milliseconds long over a low roar."""
    sound = 0.15 * noise(rng, 60, 400)
    for start in rng.uniform(0, 1, rng.integers(12, 40)):
        low = rng.uniform(600, 2500)
        sound += rng.exponential(0.8) * struck(start, rng.uniform(0.001, 0.006)) * noise(rng, low, 2.5 * low)
    return sound


def cafe(rng: Rng) -> np.ndarray:
    """Voices as modulated bands of noise and sawtooth, and cups as short sines."""
    sound = 0.2 * noise(rng, 100, 1000)
    for _ in range(6):
        pitch = rng.uniform(100, 230) * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(1, 3) * TIME + rng.uniform(0, 6)))
        buzz = signal.sawtooth(2 * np.pi * np.cumsum(pitch) / RATE)
        low = rng.uniform(300, 900)
        voice = signal.sosfilt(signal.butter(2, (low, 2.5 * low), "bandpass", fs=RATE, output="sos"), buzz)
        sound += voice * np.maximum(np.sin(2 * np.pi * rng.uniform(2, 4) * TIME + rng.uniform(0, 6)), 0) / voice.std()
    for start in rng.uniform(0, 0.95, 4):
        sound += rng.uniform(2, 5) * struck(start, 0.015) * np.sin(2 * np.pi * rng.uniform(2500, 6500) * TIME)
    return sound


def car(rng: Rng) -> np.ndarray:
    """A low-passed sawtooth at the firing rate, with road noise."""
    rate = rng.uniform(25, 80) * (1 + rng.uniform(0, 0.6) * TIME)
    engine = signal.sawtooth(2 * np.pi * np.cumsum(rate) / RATE)
    engine = signal.sosfilt(signal.butter(2, rng.uniform(250, 600), fs=RATE, output="sos"), engine)
    return engine / engine.std() + rng.uniform(0.1, 0.3) * noise(rng, 150, 2500)


def dog(rng: Rng) -> np.ndarray:
    """A square wave that falls in pitch, through three band-passes."""
    sound = np.zeros(RATE)
    length, pitch = rng.uniform(0.1, 0.2), rng.uniform(280, 600)
    for start in np.arange(rng.uniform(0, 0.2), 0.9 - length, length + rng.uniform(0.12, 0.3))[:3]:
        inside = (TIME >= start) & (TIME < start + length)
        t = np.linspace(0, 1, inside.sum())
        glide = pitch * (1.15 - 0.5 * t) * (1 + 0.02 * rng.standard_normal(len(t)))
        voice = signal.square(2 * np.pi * np.cumsum(glide) / RATE) + 0.3 * rng.standard_normal(len(t))
        sound[inside] = voice * np.minimum(t / 0.1, 1) * (1 - t)
    throat = [signal.butter(2, (0.7 * f, 1.4 * f), "bandpass", fs=RATE, output="sos") for f in (750, 1500, 2800)]
    return sum(gain * signal.sosfilt(sos, sound) for gain, sos in zip((1.0, 0.6, 0.3), throat, strict=True))


def guitar(rng: Rng) -> np.ndarray:
    """Plucked notes by adding harmonics, the higher ones dying sooner."""
    sound = np.zeros(RATE)
    root = rng.uniform(90, 200)
    for start in np.arange(rng.uniform(0, 0.1), 0.9, rng.uniform(0.15, 0.35)):
        pitch = root * 2 ** (rng.choice([0, 3, 5, 7, 12, 15]) / 12)
        for k in range(1, min(20, int(7500 / pitch))):
            stiff = k * pitch * np.sqrt(1 + 1e-4 * k**2)
            level = abs(np.sin(0.2 * np.pi * k)) / k
            sound += level * struck(start, 0.8 / k**0.7) * np.sin(2 * np.pi * stiff * (TIME - start))
    return sound


def lion(rng: Rng) -> np.ndarray:
    """Noise in the throat's bands, beaten at the rate of the vocal folds, swelling and fading."""
    rate = rng.uniform(45, 85) * (1 + 0.2 * np.sin(np.pi * TIME))
    beats = np.maximum(np.sin(2 * np.pi * np.cumsum(rate) / RATE), 0) ** 3
    throat = noise(rng, 180, 500) + 0.6 * noise(rng, 600, 1000) + 0.2 * noise(rng, 1100, 2200)
    growl = np.sin(2 * np.pi * np.cumsum(rate) / RATE) + np.sin(4 * np.pi * np.cumsum(rate) / RATE)
    return (throat * beats + 0.4 * growl) * np.sin(np.pi * np.clip(TIME * rng.uniform(1, 1.3), 0, 1)) ** 1.5


def organ(rng: Rng) -> np.ndarray:
    """A held triad of drawbar sines."""
    root = rng.uniform(130, 330)
    levels = dict(zip((1, 2, 3, 4, 6, 8), rng.uniform(0.2, 1.0, 6), strict=True))
    held = np.clip((TIME - rng.uniform(-0.1, 0.2)) / 0.03, 0, 1)
    return held * sum(
        level * np.sin(2 * np.pi * root * 2 ** (step / 12) * harmonic * TIME + rng.uniform(0, 6))
        for step in (0, 4, 7)
        for harmonic, level in levels.items()
        if root * 2 ** (step / 12) * harmonic < 7500
    )


def waves(rng: Rng) -> np.ndarray:
    """Noise that slowly swells, its upper half later than its lower."""
    peak = rng.uniform(0.3, 0.8)
    swell = np.exp(-(((TIME - peak) / 0.35) ** 2)) + 0.15
    late = np.exp(-(((TIME - peak - 0.1) / 0.3) ** 2)) + 0.05
    return noise(rng, 60, 600) * swell + 0.8 * noise(rng, 500, 2500) * swell + 0.4 * noise(rng, 2000, 7000) * late


OTHER_SYNTHESIS = {
    recipe.__name__: recipe for recipe in (bell, bird, bonfire, cafe, car, dog, guitar, lion, organ, waves)
}


def to_pcm(sound: np.ndarray, peak: float = 0.5) -> np.ndarray:
    """int16 at a peak between 0 and 1."""
    return np.round(sound * (peak * 32767 / np.abs(sound).max())).astype(np.int16)


def synthesised(count: int, seed: int = 0) -> np.ndarray:
    """int16 (count, 16000): the classes in rotation, by other synthesis, with a little noise."""
    clips = []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        sound = OTHER_SYNTHESIS[world.CLASSES[index % len(world.CLASSES)]](rng)
        clips.append(to_pcm(sound / sound.std() + 0.01 * rng.standard_normal(RATE), rng.uniform(0.1, 0.9)))
    return np.stack(clips)


def with_noise(clip: np.ndarray, rng: Rng) -> np.ndarray:
    """White noise 10 dB below the clip."""
    sound = clip.astype(np.float64)
    return to_pcm(sound + 10 ** (-10 / 20) * sound.std() * rng.standard_normal(len(sound)))


def quiet(clip: np.ndarray, rng: Rng) -> np.ndarray:
    """A peak 40 dB below full scale."""
    return to_pcm(clip.astype(np.float64), 0.01)


def overdriven(clip: np.ndarray, rng: Rng) -> np.ndarray:
    """Twice as loud as fits, clipped."""
    loud = clip * (2 * 32767 / np.abs(clip.astype(np.float64)).max())
    return np.clip(loud, -32768, 32767).astype(np.int16)


def telephone(clip: np.ndarray, rng: Rng) -> np.ndarray:
    """Resampled to 8 kHz and back: nothing above 4 kHz."""
    return np.clip(soxr.resample(soxr.resample(clip, RATE, 8000), 8000, RATE), -32768, 32767)[:RATE].astype(np.int16)


def encoded(clip: np.ndarray, format: str, subtype: str) -> np.ndarray:
    """Through a lossy file format and back."""
    file = io.BytesIO()
    soundfile.write(file, clip, RATE, format=format, subtype=subtype)
    file.seek(0)
    back = soundfile.read(file, dtype="int16")[0][:RATE]
    return np.pad(back, (0, RATE - len(back)))


SPOILT: dict[str, Callable[[np.ndarray, Rng], np.ndarray]] = {
    "white noise at 10 dB": with_noise,
    "peak at -40 dB": quiet,
    "clipped by 6 dB": overdriven,
    "8 kHz and back": telephone,
    "Ogg Vorbis": lambda clip, rng: encoded(clip, "OGG", "VORBIS"),
    "MP3": lambda clip, rng: encoded(clip, "MP3", "MPEG_LAYER_III"),
}


def conditions(clips: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Sounds from outside by kind, int16 (n, 16000) each: other synthesis, and held-out `clips` spoilt.

    Clip i is of class i modulo ten, as in the toy world's splits.
    """
    spoilt = {
        name: np.stack([spoil(clip, np.random.default_rng([seed, i])) for i, clip in enumerate(clips)])
        for name, spoil in SPOILT.items()
    }
    return {"other synthesis": synthesised(len(clips), seed)} | spoilt
