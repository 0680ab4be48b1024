"""Which images a study has: its conditionings, its modes, and where each image lies."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import encoders
from encoders import read_config
from jaxsd.generation.files import slug
from jaxsd.study.inputs import StudyInputs

TEXT_ALONE, RANDOM_EMBEDDINGS = "T", "R"
AVERAGE_CHATBOTS, AVERAGE_EVERYONE = "Average Chatbots", "Average Everyone"
AUDIO_MODES = ("A", "A&T", "A&I", "A&T&I")
MODES = {TEXT_ALONE: ("T", "T&I"), RANDOM_EMBEDDINGS: ("R", "R&I")}
"""The modes of the paper's references; a conditioning of encoders has AUDIO_MODES."""


class StudyImage(NamedTuple):
    """One image of a study; `copy` counts from 0. Random embeddings have no sound."""

    conditioning: str
    sound: str | None
    image: str | None
    with_text: bool
    copy: int

    @property
    def mode(self) -> str:
        first = self.conditioning if self.conditioning in MODES else "A"
        return "&".join([first, *["T"] * (self.with_text and first == "A"), *["I"] * (self.image is not None)])

    @property
    def path(self) -> Path:
        """Where the file lies in the folder of the study."""
        parts = [slug(self.mode), *[self.image] * (self.image is not None), *[str(self.copy + 1)] * (self.copy > 0)]
        folder = Path("images") / slug(self.conditioning)
        return (folder / self.sound if self.sound else folder) / f"{'-'.join(parts)}.png"


def study_conditionings(names: Sequence[str]) -> dict[str, list[str]]:
    """The encoders of each conditioning: each alone, the mean of the four chatbots' and the mean of all.

    Raises ValueError where two would have the same name.
    """
    own = {"human"}  # the encoder that no chatbot made
    chatbots = [
        name for name in names if (made := read_config(name)["encoder"]) in encoders.ENCODERS and made not in own
    ]
    conditionings: dict[str, list[str]] = {}
    for name in names:
        label = name.rstrip("/").rpartition("/")[2]
        if label in conditionings or slug(label) in {slug(TEXT_ALONE), slug(RANDOM_EMBEDDINGS)}:
            raise ValueError(f"encoder {name} would be called {label}, which is taken; rename its folder")
        conditionings[label] = [name]
    if 1 < len(chatbots) < len(names):
        conditionings[AVERAGE_CHATBOTS] = chatbots
    if len(names) > 1:
        conditionings[AVERAGE_EVERYONE] = list(names)
    return conditionings


def modes_of(conditioning: str) -> Sequence[str]:
    return MODES.get(conditioning, AUDIO_MODES)


def study_images(inputs: StudyInputs, conditionings: Mapping[str, Sequence[str]], copies: int) -> list[StudyImage]:
    """All images of a study, each once, input by input."""
    images = []
    for sound, image in inputs.pairs:
        for copy in range(copies):
            for name in conditionings:
                images += [StudyImage(name, sound, image, with_text, copy) for with_text in (False, True)]
            images.append(StudyImage(TEXT_ALONE, sound, image, True, copy))
            images.append(StudyImage(RANDOM_EMBEDDINGS, None, image, False, copy))
    return list(dict.fromkeys(images))


def parse_shard(text: str) -> tuple[int, int]:
    """The i and the n of "i/n". Raises ValueError where they do not fit."""
    first, slash, last = text.partition("/")
    if not (slash and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise ValueError(f"--shard is {text!r}; allowed: i/n with i from 1 to n, as 1/2 and 2/2 on two machines")
    return int(first), int(last)
