"""Sounds, and the images made of them: the contact sheet, and the gallery of the HTML page."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Int16
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from encoders.spectrogram import decibels_below_peak, mel_spectrogram, waveform
from jaxsd.audio import RATE
from jaxsd.evaluation.kept_images import GALLERY_CLIPS
from jaxsd.evaluation.results import Results
from jaxsd.runtime.files import replacing

MEL_BANDS, MEL_HOP = 64, 210
THUMBNAIL = 128  # pixels, the side of an image in the page
MARKS = {True: ("right", "✓"), False: ("wrong", "✗"), None: ("", "")}


def contact_sheet(
    path, titles: Sequence[str], clips: Int16[np.ndarray, "n samples"], images: Mapping[str, np.ndarray]
) -> Path:
    """Write a sheet with a column a sound: its spectrogram, and below it one image of every row of `images`.

    Args:
        path: the PNG file.
        titles: of the sounds.
        clips: one second of each, at 16 kHz.
        images: (n, height, width, 3) by what stands beside the row.

    Returns:
        The path.
    """
    figure = Figure(figsize=(1.5 * len(titles) + 1.2, 1.55 * (len(images) + 1) + 0.5), layout="constrained", dpi=100)
    axes = figure.subplots(len(images) + 1, len(titles), squeeze=False)
    for column, (title, spectrogram) in enumerate(zip(titles, _mel_decibels(clips), strict=True)):
        draw_spectrogram(axes[0, column], spectrogram, labels=column == 0)
        axes[0, column].set_title(title, fontsize=10)
    for row, (label, made) in zip(axes[1:], images.items(), strict=True):
        row[0].set_ylabel(label, fontsize=9)
        for axis, image in zip(row, made, strict=True):
            axis.imshow(image, aspect="auto", interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        figure.savefig(part)
    return path


def draw_spectrogram(axis: Axes, decibels: np.ndarray, *, labels: bool):
    """Draw a mel spectrogram (time, bands) in decibels over seconds and hertz, with axis labels or with ticks alone."""
    import librosa.display  # takes a second

    librosa.display.specshow(
        decibels.T, sr=RATE, hop_length=MEL_HOP, x_axis="time", y_axis="mel", fmax=RATE / 2, htk=True, ax=axis
    )
    axis.set_xticks([0, 0.5, 1])
    axis.set_yticks([0, 1000, 4000, 8000], ["0", "1", "4", "8"] if labels else [])
    axis.set_xlim(0, 1)
    axis.tick_params(labelsize=7)
    axis.set_xlabel("s" if labels else "", fontsize=7)
    axis.set_ylabel("kHz" if labels else "", fontsize=7)


def gallery(results: Results) -> str:
    """HTML: a line a sound, with its spectrogram, a player, and the images kept of it; "" where none are kept."""
    entries = {
        name: entry["images"]
        for name, entry in (results["encoders"] | results["references"]).items()
        if "images" in entry and Path(entry["images"]["folder"]).is_dir()
    }
    sounds = sorted(Path(results["gallery"]["folder"]).glob("*.wav")) if "gallery" in results else []
    if not entries or not sounds:
        return ""
    clips = np.stack([soundfile.read(path, dtype="int16")[0] for path in sounds[:GALLERY_CLIPS]])
    lines = zip(sounds, _mel_decibels(clips), results["gallery"]["captions"], strict=False)
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name in ("sound", *entries))
    rows = "\n".join(
        f"<tr><th scope=row>{_sound_cell(path, spectrogram, caption)}</th>{_image_cells(entries, index)}</tr>"
        for index, (path, spectrogram, caption) in enumerate(lines)
    )
    columns = f"--images: {len(entries)}"  # for the style, which gives them the width that there is
    return f"<table class=gallery style='{columns}'><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table>"


def _sound_cell(path: Path, spectrogram: np.ndarray, caption: str) -> str:
    figure = Figure(figsize=(2.6, 1.25), layout="constrained", dpi=100)
    draw_spectrogram(figure.subplots(), spectrogram, labels=True)
    png = io.BytesIO()
    figure.savefig(png, format="png", transparent=True)
    return (
        f'<img class=spectrogram alt="spectrogram" src="{_data_url(png.getvalue(), "image/png")}">'
        f'<audio controls preload=none src="{_data_url(path.read_bytes(), "audio/wav")}"></audio>'
        f"<div>{escape(caption)}</div>"
    )


def _image_cells(entries: Mapping[str, Mapping], index: int) -> str:
    cells = []
    for label, entry in entries.items():
        path = Path(entry["folder"]) / f"{index:04}.png"
        if not path.is_file():
            cells.append("<td></td>")
            continue
        name, mark = MARKS[entry["right"][index] if entry["right"] else None]
        cells.append(
            f'<td class="{name}" data-label="{escape(label)}">'
            f'<img alt="{name} image" src="{_thumbnail(path)}"><div>{mark}</div></td>'
        )
    return "".join(cells)


def _thumbnail(path: Path) -> str:
    with Image.open(path) as image:
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        png = io.BytesIO()
        image.save(png, format="png", optimize=True)
    return _data_url(png.getvalue(), "image/png")


def _data_url(data: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _mel_decibels(clips: Int16[np.ndarray, "n samples"]) -> np.ndarray:
    return np.asarray(decibels_below_peak(mel_spectrogram(waveform(clips), hop=MEL_HOP, bands=MEL_BANDS)))
