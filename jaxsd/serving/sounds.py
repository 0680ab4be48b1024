"""A sound as the page shows it: how long it is, where it is loudest, and what it looks like."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int16

from jaxsd.audio import RATE, load_clip, load_sound

DRAWN_HOP = 160  # samples at 16 kHz between columns of the spectrogram
LEFT, RIGHT = 0.08, 0.98  # where the axis of time begins and ends, as shares of the figure's width


class ReadSound(NamedTuple):
    """The whole of a sound at 16 kHz, and where its loudest second begins, in seconds."""

    samples: Int16[np.ndarray, " samples"]
    loudest: float

    @property
    def seconds(self) -> float:
        return len(self.samples) / RATE


def read_sound(path: str | Path, longest: float) -> ReadSound:
    """Read a sound of up to `longest` seconds. Raises AudioError with a sentence that names the file."""
    return ReadSound(load_sound(path, longest), load_clip(path).start)


def draw_sound(sound: ReadSound) -> bytes:
    """A PNG of the waveform and the mel spectrogram over seconds and kilohertz; a second at least is drawn."""
    import librosa
    from matplotlib.figure import Figure

    samples = sound.samples.astype(np.float32) / 2**15
    figure = Figure(figsize=(7, 3.2), dpi=100)
    grid = {"left": LEFT, "right": RIGHT, "top": 0.98, "bottom": 0.14, "hspace": 0.1}
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(1, 2), gridspec_kw=grid)
    librosa.display.waveshow(samples, sr=RATE, ax=upper)
    peak = max(float(np.abs(samples).max()), 0.01)
    upper.set(ylim=(-peak, peak), ylabel="amplitude", xlabel="", yticks=[0])
    mel = librosa.feature.melspectrogram(
        y=samples, sr=RATE, n_fft=512, hop_length=DRAWN_HOP, n_mels=64, fmax=RATE / 2, htk=True
    )
    decibels = librosa.power_to_db(mel, ref=np.max)
    librosa.display.specshow(
        decibels, sr=RATE, hop_length=DRAWN_HOP, x_axis="time", y_axis="mel", fmax=RATE / 2, htk=True, ax=lower
    )
    lower.set(yticks=[0, 1000, 4000, 8000], yticklabels=["0", "1", "4", "8"], ylabel="kHz", xlabel="s")
    lower.set_xlim(0, max(sound.seconds, 1))
    memory = io.BytesIO()
    figure.savefig(memory, format="png")
    return memory.getvalue()
