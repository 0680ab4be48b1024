"""What is seen in a study's images, in place of a person's ticks: by CLIP and, in the toy world, by the judge."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from jaxsd.clip.pipeline import CLIP
from jaxsd.evaluation import metrics
from jaxsd.evaluation.report.tables import Table
from jaxsd.runtime.files import replacing
from jaxsd.runtime.progress import Progress
from jaxsd.runtime.sharding import padded_batches
from jaxsd.study.inputs import StudyInputs
from jaxsd.study.plan import RANDOM_EMBEDDINGS, StudyImage, modes_of

SCORED_TOGETHER = 16  # images
KNOWN_VECTORS = ".clip.npz"  # of the images that were scored before, in the folder of the study

SeeClasses = Callable[[np.ndarray], Sequence[str]]
"""Gives the class that a judge sees in each of several uint8 images."""


@dataclass(frozen=True)
class Shown:
    """An image of a study as the page shows it, with its scores for one sound.

    similarity: CLIP's cosine with the sound's caption times 100. rank: where that caption stands among the captions of
    all sounds, from 1. judged: whether the judge sees the sound's class. None: not scored.
    """

    image: StudyImage
    sound: str
    similarity: float | None = None
    rank: float | None = None
    judged: bool | None = None

    @property
    def seen(self) -> bool | None:
        """Whether the image shows what was heard: as the judge says or, without one, where no caption is nearer."""
        if self.judged is not None:
            return self.judged
        return None if self.rank is None else self.rank <= 1


def score_study(
    folder: Path, inputs: StudyInputs, images: Sequence[StudyImage], clip: CLIP | None, see: SeeClasses | None
) -> list[Shown]:
    """Every image that is there, for each sound that it stands for: random embeddings stand for all."""
    there = [image for image in images if (folder / image.path).is_file()]
    vectors = _embed(folder, there, clip) if clip else {}
    classes = (
        _judge_classes(folder, there, see) if see and any(one.class_name for one in inputs.sounds.values()) else {}
    )
    names = list(inputs.sounds)
    cosines: dict[str, np.ndarray] = {}
    if clip:
        captions = np.asarray(clip.embed_text([inputs.sounds[name].caption for name in names]), np.float64)
        cosines = {path: captions @ vector for path, vector in vectors.items()}
    shown = []
    for image in there:
        for sound in names if image.sound is None else [image.sound]:
            if (sound, image.image) not in inputs.pairs:
                continue
            similarity = rank = judged = None
            if (path := str(image.path)) in cosines:
                own = cosines[path][names.index(sound)]
                others = np.delete(cosines[path], names.index(sound))
                similarity = 100 * float(own)
                near = np.abs(others - own) <= metrics.TIE
                rank = 1 + float(((others > own) & ~near).sum() + near.sum() / 2)
            if path in classes and inputs.sounds[sound].class_name:
                judged = classes[path] == inputs.sounds[sound].class_name
            shown.append(Shown(image, sound, similarity, rank, judged))
    return shown


def _embed(folder: Path, images: Sequence[StudyImage], clip: CLIP) -> dict[str, Float[np.ndarray, " features"]]:
    """CLIP's vectors of the images by their paths; those that were computed before are read."""
    kept = folder / KNOWN_VECTORS
    known: dict[str, np.ndarray] = {}
    if kept.is_file():
        with np.load(kept) as file:
            known = dict(zip(file["paths"].tolist(), file["vectors"], strict=True))
    left = [str(image.path) for image in images if str(image.path) not in known]
    if left:
        with Progress("CLIP", len(left), unit="image") as progress:
            for indices, count in padded_batches(len(left), SCORED_TOGETHER):
                batch = np.asarray(clip.embed_images([_open(folder / left[index]) for index in indices]))
                known |= {left[index]: batch[at] for at, index in enumerate(indices[:count])}
                progress.advance(int(indices[count - 1]) + 1)
        with replacing(kept) as part:
            np.savez(part, paths=np.array(list(known)), vectors=np.stack(list(known.values())))
    return {str(image.path): known[str(image.path)] for image in images}


def _judge_classes(folder: Path, images: Sequence[StudyImage], see: SeeClasses) -> dict[str, str]:
    paths = [str(image.path) for image in images]
    if not paths:
        return {}
    return dict(zip(paths, see(np.stack([np.asarray(_open(folder / path)) for path in paths])), strict=True))


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def score_tables(inputs: StudyInputs, conditionings: Sequence[str], shown: Sequence[Shown]) -> list[Table]:
    """The scores of every conditioning and mode; and what is seen of each sound, without and with an image."""
    if not any(one.rank is not None for one in shown):
        return []
    rows: Mapping[tuple[str, str], list[Shown]] = {
        (name, mode): [one for one in shown if (one.image.conditioning, one.image.mode) == (name, mode)]
        for name in conditionings
        for mode in modes_of(name)
    }
    rows = {key: found for key, found in rows.items() if found}
    seen_by = "the judge sees the class" if any(one.judged is not None for one in shown) else "its caption is nearest"
    tables = [_scores_table(rows, len(inputs.sounds))]
    for title, with_image in (("What is seen, without an image", False), ("What is seen, with an image", True)):
        chosen = {key: found for key, found in rows.items() if key[1].endswith("I") == with_image}
        if chosen:
            tables.append(_seen_table(title, seen_by, chosen, list(inputs.sounds)))
    return tables


def _scores_table(rows: Mapping[tuple[str, str], Sequence[Shown]], captions: int) -> Table:
    figures: dict[str, tuple[Callable[[Shown], float | bool | None], bool]] = {
        "CLIP similarity": (lambda one: one.similarity, False),
        f"rank of {captions}": (lambda one: one.rank, False),
        "own caption nearest, %": (lambda one: None if one.rank is None else one.rank <= 1, True),
        "judge sees the class, %": (lambda one: one.judged, True),
    }
    cells = []
    for (name, mode), found in rows.items():
        line = [_row_name(name, mode), str(len({one.image.path for one in found}))]
        line += [_estimate(found, read, share) for read, share in figures.values()]
        cells.append(line)
    keep = [0, 1, *(column for column in range(2, len(figures) + 2) if any(line[column] for line in cells))]
    head = ("", "images", *figures)
    return Table(
        "Scores",
        "CLIP similarity: 100 times the cosine of the image and the caption. Rank: where the own caption stands among "
        "those of all sounds, 1 is best. In brackets: 95 % intervals over the sounds (bootstrap of means, Wilson's of "
        "shares with one trial a sound).",
        [head[column] for column in keep],
        [[line[column] for column in keep] for line in cells],
    )


def _seen_table(title: str, seen_by: str, rows: Mapping[tuple[str, str], Sequence[Shown]], sounds: list[str]) -> Table:
    cells = []
    for (name, mode), found in rows.items():
        line = [_row_name(name, mode)]
        for sound in sounds:
            seen = [one.seen for one in found if one.sound == sound and one.seen is not None]
            line.append(f"{sum(seen)}/{len(seen)}" if seen else "")
        cells.append([*line, _estimate(found, lambda one: one.seen, True)])
    note = f"In how many of the images of each sound the sound is seen: {seen_by}. In the last column: per cent of all."
    return Table(title, note, ("", *sounds, "all, %"), cells)


def _row_name(conditioning: str, mode: str) -> str:
    return mode if mode[0] in (RANDOM_EMBEDDINGS, "T") else f"{conditioning}, {mode}"


def _estimate(shown: Sequence[Shown], read: Callable[[Shown], float | bool | None], share: bool) -> str:
    """The mean over the sounds, with its interval over them; "" where there is no score."""
    by_sound: dict[str, list[float]] = {}
    for one in shown:
        if (value := read(one)) is not None:
            by_sound.setdefault(one.sound, []).append(float(value))
    if not by_sound:
        return ""
    means = np.array([np.mean(values) for values in by_sound.values()])
    if share:
        low, high = metrics.wilson(float(means.mean()), len(means))
        return f"{100 * means.mean():.0f} [{100 * low:.0f}, {100 * high:.0f}]"
    if len(means) < 2:
        return f"{means.mean():.1f}"
    low, high = metrics.bootstrap(means)
    return f"{means.mean():.1f} [{low:.1f}, {high:.1f}]"
