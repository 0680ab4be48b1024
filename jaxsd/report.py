"""Pictures of results."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from encoders.spectrogram import decibels_below_peak, mel_spectrogram, waveform


def contact_sheet(
    path, titles: Sequence[str], clips: np.ndarray, generated: np.ndarray, examples: np.ndarray, captions: Sequence[str]
) -> Path:
    """Write a sheet with a column a sound: its spectrogram, the picture made of it, an example of the thing.

    `clips` are int16 (n, 16000), `generated` and `examples` pictures (n, height, width, 3), `captions` name the rows.
    """
    spectrograms = np.asarray(decibels_below_peak(mel_spectrogram(waveform(clips), bands=64)))
    rows = (spectrograms.transpose(0, 2, 1)[:, ::-1], generated, examples)
    figure = Figure(figsize=(1.5 * len(titles) + 1.2, 1.55 * len(rows) + 0.5), layout="constrained", dpi=100)
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for row, (caption, pictures) in enumerate(zip(captions, rows, strict=True)):
        for column, picture in enumerate(pictures):
            axis = axes[row, column]
            axis.imshow(picture, cmap="magma", aspect="auto", interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(titles[column], fontsize=10)
        axes[row, 0].set_ylabel(caption, fontsize=9)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path
