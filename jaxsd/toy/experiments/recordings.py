"""Whether encoders hear people's own recordings of the toy world's things, and draw them."""

import csv
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

import encoders
from jaxsd.config import one_of
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.evaluation.conditionings import encode_audio
from jaxsd.evaluation.images import draw_images
from jaxsd.evaluation.report import contact_sheet
from jaxsd.evaluation.report.tables import Table
from jaxsd.generation.hearing import hear
from jaxsd.runtime.bundled import TOY_MODEL
from jaxsd.runtime.files import replacing
from jaxsd.runtime.progress import Progress
from jaxsd.sound_to_image import load_sounds
from jaxsd.toy import world
from jaxsd.toy.experiments.runs import share_cell, write_table
from jaxsd.toy.maker import see_classes

SHEET = 1  # recordings a class on the sheet


class Recording(NamedTuple):
    """A sound file and the class that it is of."""

    path: Path
    class_name: str


def measure_recordings(folder: Path, out: Path, names: Sequence[str]) -> Path:
    """Let encoders hear and draw recordings, and write what came of it.

    Args:
        folder: holds a folder of sound files for each class, named as the class. The loudest second is taken of each.
        out: gets `recordings.md`, `recordings.csv` with a line a recording and encoder, and `recordings.png`, a sheet.
        names: bundled encoders, or folders of trained ones.

    Returns:
        The path of the Markdown file.

    Raises:
        ValueError: a folder in `folder` is no class, or there is no sound.
        FileNotFoundError: `folder` or an encoder is not there.
    """
    recordings = find_recordings(folder)
    loaded = {name: encoders.load(name) for name in names}
    clips = np.stack([sound.clip.samples for sound in load_sounds([one.path for one in recordings])])
    truth = np.array([one.class_name for one in recordings])
    pipe = StableDiffusion.from_pretrained(TOY_MODEL)
    heard, drawn, images = {}, {}, {}
    with Progress("recordings", len(clips) * len(loaded), unit="image", compiles=True) as progress:
        for number, (name, encoder) in enumerate(loaded.items()):
            embeddings = np.asarray(encode_audio(encoder, clips))
            heard[name] = hear(embeddings)
            tell = partial(lambda done, before: progress.advance(before + done), before=number * len(clips))
            images[name] = draw_images(pipe, embeddings, progress=tell)
            drawn[name] = np.array(see_classes(np.round(images[name] * 255).astype(np.uint8)))
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "recordings.csv") as part, part.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("class", "file", "encoder", "heard", "share", "drawn"))
        for name in loaded:
            for (path, class_name), one, seen in zip(recordings, heard[name], drawn[name], strict=True):
                file_name = path.relative_to(folder)
                writer.writerow((class_name, file_name, name, one.class_name, f"{one.share:.2f}", seen))
    shown = np.concatenate([np.flatnonzero(truth == name)[:SHEET] for name in dict.fromkeys(truth)])
    rows = {name: images[name][shown] for name in loaded}
    contact_sheet(out / "recordings.png", list(truth[shown]), clips[shown], rows)
    page = out / "recordings.md"
    with replacing(page) as part:
        part.write_text(
            _section(truth, {name: np.array([h.class_name for h in heard[name]]) for name in loaded}, drawn)
        )
    return page


def find_recordings(folder: Path) -> list[Recording]:
    """The sounds in the folders of the classes, in order. Raises ValueError or FileNotFoundError."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; it holds a folder of sounds for each class")
    found = []
    for inner in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        name = one_of(f"{folder}: the class of a folder", inner.name, world.CLASSES)
        found += [Recording(path, name) for path in sorted(inner.iterdir()) if not path.name.startswith(".")]
    if not found:
        raise ValueError(f"{folder} holds no sound; allowed: folders of sound files, named {', '.join(world.CLASSES)}")
    return found


def _section(truth: np.ndarray, heard: dict[str, np.ndarray], drawn: dict[str, np.ndarray]) -> str:
    """Tables of what was heard and drawn, by class and encoder."""
    tables = []
    for title, note, answers in (
        ("Heard", "The class whose caption is nearest to the sound's embedding is the recording's", heard),
        ("Drawn", "The judge sees the recording's class in the image drawn of the sound alone", drawn),
    ):
        right = [found == truth for found in answers.values()]
        lines = []
        for name in (*dict.fromkeys(truth), "all"):
            those = np.ones(len(truth), bool) if name == "all" else truth == name
            lines.append(
                (name, str(those.sum()), *(share_cell(float(r[those].mean()), int(those.sum())) for r in right))
            )
        means = (np.mean([r[truth == name].mean() for name in set(truth)]) for r in right)
        lines.append(("mean of the classes", "", *(f"{100 * share:.0f}" for share in means)))
        note = f"{note}: the share of recordings in per cent, with Wilson's 95 % intervals."
        tables.append(Table(title, note, ("class", "recordings", *answers), lines))
    return "\n".join(map(write_table, tables))
