"""What a study is made of: sounds with their captions, and images to start from."""

import csv
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int16
from PIL import Image

from jaxsd.clip.images import load_image, rgb_image
from jaxsd.generation.files import slug
from jaxsd.recipes.recipe import SoundRecord
from jaxsd.runtime.bundled import sound_source
from jaxsd.sound_to_image import load_sounds

CSV_COLUMNS = ("audio", "text", "image", "class")
SOUNDS, START_IMAGES, CAPTIONS_FILE = "sounds", "images", "captions.csv"  # what a study's folder holds


@dataclass(frozen=True)
class StudySound:
    """One second of sound, its caption and, where it is known, the class that a judge should see.

    record: what a recipe says of the sound.
    """

    clip: Int16[np.ndarray, "16000"]
    record: SoundRecord
    caption: str
    class_name: str | None = None


@dataclass(frozen=True)
class StudyInputs:
    """The sounds and the images by name, and which sound goes with which image; None is without an image."""

    sounds: Mapping[str, StudySound]
    images: Mapping[str, Image.Image]
    pairs: Sequence[tuple[str, str | None]]

    def digest(self) -> dict[str, Any]:
        """What the inputs are, by content, for study.json."""
        return {
            "sounds": {
                name: [_sha256(sound.clip.tobytes()), sound.caption, sound.class_name]
                for name, sound in self.sounds.items()
            },
            "images": {name: _sha256(rgb_image(image).tobytes()) for name, image in self.images.items()},
            "pairs": [list(pair) for pair in self.pairs],
        }


def read_study(source: str | Path) -> StudyInputs:
    """Read the inputs of a study.

    `source` is a CSV file with a line an input: `audio` (a file, or the name of a sample sound), `text` (its caption),
    and where there is one, `image` (a file) and `class`. Or it is a folder, whose `sounds` are each drawn without an
    image and with each of its `images`; its captions.csv has the columns name, caption and perhaps class.

    Raises FileNotFoundError or ValueError that names the file and what does not fit.
    """
    source = Path(source)
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder; --study takes a CSV file or a folder")
    lines = _folder_lines(source) if source.is_dir() else _csv_lines(source)
    sounds, images, pairs = {}, {}, []
    paths: dict[tuple[str, str], Path] = {}
    for where, line in lines:
        path = line["audio"]
        name = _unique_name(paths, "sound", path)
        sound = sounds.get(name)
        if sound is None:
            (loaded,) = load_sounds(path)
            sounds[name] = StudySound(loaded.clip.samples, loaded.record, line["text"], line.get("class") or None)
        elif (sound.caption, sound.class_name) != (line["text"], line.get("class") or None):
            raise ValueError(f"{where}: {path} has another text or class than before; allowed: one of each a sound")
        image = None
        if line.get("image"):
            image = _unique_name(paths, "image", line["image"])
            if image not in images:
                images[image] = load_image(line["image"])
        if (name, image) in pairs:
            raise ValueError(f"{where}: this sound with this image is there already")
        pairs.append((name, image))
    if not pairs:
        raise ValueError(f"{source} has no inputs; allowed: at least one sound with a text")
    return StudyInputs(sounds, images, pairs)


def _unique_name(paths: dict[tuple[str, str], Path], what: str, path: Path) -> str:
    """The name of a file in the study. Raises ValueError where another file has it."""
    name = slug(path.stem)
    if paths.setdefault((what, name), path) != path:
        raise ValueError(f"{path} and {paths[what, name]} would both be called {name}; rename one of them")
    return name


def _csv_lines(path: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    for number, line in _csv_rows(path, CSV_COLUMNS, needed=("audio", "text")):
        where = f"{path}, line {number}"
        audio, image = path.parent / line["audio"], line.get("image")
        line["audio"] = audio if audio.is_file() else sound_source(line["audio"])
        if image:
            line["image"] = path.parent / image
        yield where, line


def _folder_lines(folder: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    captions = {}
    for _, line in _csv_rows(folder / CAPTIONS_FILE, ("name", "caption", "class"), needed=("name", "caption")):
        captions[line["name"]] = line
    sounds, images = (_files(folder / name) for name in (SOUNDS, START_IMAGES))
    if missing := sorted(captions.keys() - {path.stem for path in sounds}):
        raise ValueError(
            f"{folder / CAPTIONS_FILE} names {missing[0]}, and {folder / SOUNDS} has no sound of that name"
        )
    for sound in sounds:
        if sound.stem not in captions:
            raise ValueError(f"{folder / CAPTIONS_FILE} has no caption of {sound.stem}, which {sound} needs")
        line = captions[sound.stem]
        for image in (None, *images):
            yield (
                str(sound),
                {
                    "audio": sound,
                    "text": line["caption"],
                    "image": image,
                    "class": line.get("class"),
                },
            )


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _csv_rows(path: Path, columns: Sequence[str], needed: Sequence[str]) -> Iterable[tuple[int, dict[str, Any]]]:
    """The lines of a CSV file with their numbers. Raises FileNotFoundError or ValueError that names the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            head = reader.fieldnames or []
            if (missing := [name for name in needed if name not in head]) or not set(head) <= set(columns):
                wrong = f"has no column {missing[0]}" if missing else f"has the columns {', '.join(head)}"
                if any(";" in name for name in head):
                    wrong += ", for semicolons are between the columns where commas must be"
                raise ValueError(f"{path} {wrong}; allowed: {', '.join(columns)}, of which {', '.join(needed)} must be")
            for line in reader:
                if None in line or any(not (line[name] or "").strip() for name in needed):
                    raise ValueError(
                        f"{path}, line {reader.line_num}: allowed are a value for {', '.join(needed)}, "
                        "and no more values than columns"
                    )
                yield reader.line_num, dict(line)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: not a CSV file in UTF-8 ({error})") from None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
