"""What images are made of, read from files before any model is loaded."""

import glob
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int16
from PIL import Image

from jaxsd.clip.images import load_image
from jaxsd.generation.files import slug
from jaxsd.runtime.bundled import sound_source
from jaxsd.runtime.files import StoredFile
from jaxsd.runtime.progress import counted
from jaxsd.sound_to_image import LoadedSound, Start, load_sounds

STANDARD_INPUT, LARGEST_INPUT = "-", 2**30  # bytes


@dataclass(frozen=True)
class Inputs:
    """What images are made of.

    prompts: one for all sounds, one each, or without sounds. stems: what the files are named after. image: the image to
    start from, or None.
    """

    sounds: Sequence[LoadedSound]
    prompts: Sequence[str]
    stems: Sequence[str]
    image: Image.Image | None

    @property
    def clips(self) -> Int16[np.ndarray, "sounds 16000"] | None:
        """The seconds that are taken, or None without sounds."""
        return np.stack([sound.clip.samples for sound in self.sounds]) if self.sounds else None


def read_inputs(
    sounds: Sequence[str],
    prompts: Sequence[str],
    image: str | None,
    *,
    start: Start = None,
    mix: bool = False,
    random: bool = False,
) -> Inputs:
    """Read the files; stderr says which second of a longer sound is taken.

    `sounds` are those of `find_sounds`, `start` is that of `load_sounds`. With `mix`, all sounds make one image, which
    is named after all of them. With `random`, there is neither sound nor prompt.

    Raises ValueError or FileNotFoundError that names the file or the argument that does not fit.
    """
    if random and (sounds or prompts):
        raise ValueError("--random takes the place of sounds and texts; leave --audio and --text out")
    if not sounds and not prompts and not random:
        raise ValueError("there is neither a sound nor a text to make an image of; give --audio, --text or both")
    found = find_sounds(sounds)
    check_prompts(prompts, len(found), mix)
    return Inputs(
        sounds=load_sounds(found, start=start) if found else [],
        prompts=prompts,
        stems=["random"] if random else _stems(found, prompts, mix),
        image=None if image is None else load_image(image),
    )


def check_prompts(prompts: Sequence[str], sounds: int, mix: bool = False):
    """Raise ValueError where there are neither as many prompts as sounds nor one for all."""
    images = 1 if mix else sounds
    if sounds and len(prompts) not in (0, 1, images):
        mixed = " mixed into one" if mix else ""
        raise ValueError(
            f"{counted(len(prompts), 'text')} for {counted(sounds, 'sound')}{mixed}; allowed: as many, or one for all"
        )


def find_sounds(names: Sequence[str]) -> list[Path | StoredFile]:
    """The sounds that names stand for: files, sample sounds, folders, patterns as *.wav, and - for standard input.

    Of a folder, all its files but hidden ones. Raises FileNotFoundError or ValueError for what stands for none.
    """
    found: list[Path | StoredFile] = []
    for name in names:
        if name == STANDARD_INPUT:
            found.append(_read_standard_input())
        elif Path(name).is_dir():
            found += _require(sorted(path for path in Path(name).iterdir() if _is_visible(path)), f"{name} has no file")
        elif glob.has_magic(name) and not Path(name).exists():
            found += _require(sorted(map(Path, glob.glob(name, recursive=True))), f"no file fits the pattern {name}")
        else:
            found.append(sound_source(name))
    return found


def _is_visible(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")


def _require(paths: list[Path], problem: str) -> list[Path]:
    if not paths:
        raise FileNotFoundError(f"{problem}; --audio takes sound files")
    return paths


def _read_standard_input() -> StoredFile:
    data = sys.stdin.buffer.read(LARGEST_INPUT + 1)
    if len(data) > LARGEST_INPUT:
        raise ValueError(f"standard input holds more than {LARGEST_INPUT:,} bytes; allowed: up to that")
    return StoredFile("standard input", data)


def sound_stem(sound: Path | StoredFile) -> str:
    """What a file is named after that is made of a sound."""
    return "stdin" if isinstance(sound, StoredFile) else sound.stem


def _stems(sounds: Sequence[Path | StoredFile], prompts: Sequence[str], mix: bool) -> list[str]:
    stems = [sound_stem(sound) for sound in sounds]
    if mix and stems:
        return ["+".join(stems)[:100]]
    return stems or [slug(prompt) for prompt in prompts]
