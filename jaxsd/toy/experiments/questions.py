"""What the paper leaves open, answered by images of the toy world: sound or text or both, in which proportion, how much
guidance, and one encoder or the mean of several.

Every row draws the same held-out sounds from the same noise, so rows are compared image by image.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jaxtyping import Float, Shaped
from matplotlib.figure import Figure

from jaxsd.clip.pipeline import CLIP
from jaxsd.diffusion.pipeline import to_pil
from jaxsd.diffusion.sampling_defaults import SamplingDefaults
from jaxsd.evaluation import metrics
from jaxsd.evaluation.images import DRAWN_TOGETHER
from jaxsd.evaluation.report.plots import PALETTE, STYLE
from jaxsd.evaluation.report.tables import Table
from jaxsd.generation.files import slug
from jaxsd.runtime.bundled import clip_source
from jaxsd.runtime.files import lock_folder, read_json, replacing, write_json
from jaxsd.runtime.progress import Progress, counted
from jaxsd.runtime.sharding import padded_batches
from jaxsd.sound_to_image import SoundToImage, combine_embeddings
from jaxsd.study.plan import AVERAGE_CHATBOTS, AVERAGE_EVERYONE, study_conditionings
from jaxsd.toy import world
from jaxsd.toy.experiments.runs import share_cell, wrap, write_table
from jaxsd.toy.judge import load_judge, verdicts
from jaxsd.toy.maker import SPEED

ASKED_ALPHAS = (0.0, 0.5, 1.0, 0.2, 0.8, 0.4, 0.6, 0.1, 0.9, 0.3, 0.7)  # in the order in which they are drawn
ASKED_GUIDANCES = (1.5, 5.0, 7.5)  # beside the model's own
TEXT_ONLY = "text"
SEEN = {
    "class": "the judge sees the class that was heard",
    "named": "share of the attributes in the caption (color, side, background) that the judge sees",
    "everything": "the judge sees the class and every attribute in the caption",
}
CLIP_SCORE = "CLIP score"
NOT_MEASURED = "not measured"


class QuestionRow(NamedTuple):
    """One conditioning: encoders, the share of the text, and the weight of guidance."""

    conditioning: str
    alpha: float
    guidance: float

    @property
    def file(self) -> str:
        return f"{slug(self.conditioning)}-{self.alpha:g}-{self.guidance:g}.npz"


Answers = Mapping[QuestionRow, Mapping[str, Float[np.ndarray, " images"]]]
"""What each image of a row shows, by figure; NaN where a caption names no attribute."""


def answer_questions(
    folder: Path,
    *,
    encoders: Sequence[str],
    images: int = 200,
    steps: int | None = None,
    sampler: str | None = None,
    section: Path | None = None,
    limit: int | None = None,
    dry_run: bool = False,
) -> Path | None:
    """Draw every row that `folder` has not yet, and write what the rows say.

    Args:
        folder: gets a file a row; what is there is not drawn again.
        encoders: bundled encoders, or folders of trained ones.
        images: how many images a row.
        steps: sampling steps, by default the model's own.
        sampler: the sampler, by default the model's own.
        section: the Markdown file to write, with a PNG beside it; by default `folder`/questions.md.
        limit: how many rows to draw at most, the most telling first.
        dry_run: only say how many images would be drawn.

    Returns:
        The path of the Markdown file; None of a dry run.

    Raises:
        ValueError: there are too few images, `folder` has rows of another setting, or another process fills it.
    """
    if images < 2:
        raise ValueError(f"the number of images is {images}; allowed: 2 or more")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; allowed: 1 or more")
    SamplingDefaults(steps=1 if steps is None else steps, sampler=sampler)  # refuses what cannot be
    section = section or folder / "questions.md"
    with nullcontext() if dry_run else lock_folder(folder):
        model = SoundToImage.from_pretrained(encoders, "toy")
        setting = {
            "encoders": list(encoders),
            "images": images,
            "steps": steps or model.pipe.sampling.steps,
            "sampler": sampler or model.pipe.sampling.sampler or model.pipe.schedule.sampler,
        }
        rows = list(dict.fromkeys(_rows(study_conditionings(encoders), model.pipe.sampling.guidance)))[:limit]
        left = [row for row in rows if not (folder / row.file).is_file()]
        hours = len(left) * images * SPEED[1] * setting["steps"] / model.pipe.sampling.steps / 3600
        print(
            f"{counted(len(rows), 'row')}, {len(left)} of them to draw: {counted(len(left) * images, 'image')},\n"
            f"about {hours:.1f} hours on two CPU cores",
            flush=True,
        )
        if dry_run:
            return None
        _check_or_write(folder / "setting.json", setting)
        _draw_rows(model, left, folder, setting)
        answers = {row: _read_row(folder / row.file) for row in rows if (folder / row.file).is_file()}
    figure = section.with_suffix(".png")
    with matplotlib.rc_context(STYLE), replacing(figure) as part:
        _curves(answers, model.pipe.sampling.guidance).savefig(part)
    with replacing(section) as part:
        part.write_text(_answers_section(answers, setting, model.pipe.sampling.guidance, figure.name))
    return section


def _rows(conditionings: Mapping[str, Sequence[str]], guidance: float) -> Iterator[QuestionRow]:
    """Every row, the most telling first; a row may come twice."""
    for alpha in ASKED_ALPHAS[:3]:
        yield from (_row(name, alpha, guidance) for name in conditionings)
    for alpha in ASKED_ALPHAS[3:5]:
        yield from (_row(name, alpha, guidance) for name in conditionings if name != AVERAGE_CHATBOTS)
    for other in ASKED_GUIDANCES:
        yield from (_row(AVERAGE_EVERYONE, alpha, other) for alpha in ASKED_ALPHAS[:3])
    for alpha in ASKED_ALPHAS[5:]:
        yield from (_row(name, alpha, guidance) for name in conditionings if name != AVERAGE_CHATBOTS)
    for other in ASKED_GUIDANCES:
        yield from (_row(name, alpha, other) for alpha in ASKED_ALPHAS[:2] for name in conditionings)


def _row(name: str, alpha: float, guidance: float) -> QuestionRow:
    return QuestionRow(TEXT_ONLY if alpha == 1 else name, alpha, guidance)


def _check_or_write(path: Path, setting: dict):
    """Raise ValueError where the rows beside `path` are of another setting."""
    if not path.is_file():
        write_json(path, setting)
    elif (there := read_json(path)) != setting:
        different = ", ".join(
            f"{key} {there.get(key)}, not {value}" for key, value in setting.items() if there.get(key) != value
        )
        raise ValueError(f"{path.parent} has rows of another setting ({different}); choose another --out")


def _draw_rows(model: SoundToImage, rows: Sequence[QuestionRow], folder: Path, setting: Mapping):
    if not rows:
        return
    count = setting["images"]
    sounds, captions = world.sounds("test", count), world.captions("test", count)
    scenes, judge = world.scenes("test", count), load_judge()
    clip = CLIP.from_pretrained(clip_source("toy"), dtype=np.float32)
    text = np.concatenate(
        [model.pipe.encode_text(captions[at : at + DRAWN_TOGETHER]) for at in range(0, count, DRAWN_TOGETHER)]
    )
    caption_vectors = np.concatenate(
        [clip.embed_text(captions[at : at + DRAWN_TOGETHER]) for at in range(0, count, DRAWN_TOGETHER)]
    )
    heard = {name: np.asarray(model.encode_with(name, sounds)) for name in model.encoders}
    conditionings = study_conditionings(list(model.encoders))
    keys = jax.vmap(lambda index: jax.random.fold_in(jax.random.key(0), index))(np.arange(count))
    with Progress("questions", len(rows) * count, unit="image") as progress:
        for number, row in enumerate(rows):
            cond = text
            if row.conditioning != TEXT_ONLY:
                audio = np.mean([heard[name] for name in conditionings[row.conditioning]], axis=0)
                cond = np.asarray(combine_embeddings(jnp.asarray(audio), jnp.asarray(text), row.alpha))
            parts = []
            for indices, wanted in padded_batches(count, min(DRAWN_TOGETHER, count)):
                drawn = model.pipe(
                    cond[indices],
                    guidance=row.guidance,
                    steps=setting["steps"],
                    sampler=setting["sampler"],
                    key=keys[indices],
                )
                parts.append(np.asarray(drawn)[:wanted])
                progress.advance(number * count + int(indices[wanted - 1]) + 1)
            images = np.concatenate(parts)
            seen = np.asarray(clip.embed_images(to_pil(images)))
            figures = _see(verdicts(judge, images, scenes), captions, scenes)
            figures[CLIP_SCORE] = 100 * np.einsum("ij,ij->i", seen, caption_vectors)
            with replacing(folder / row.file) as part:
                np.savez(part, allow_pickle=False, **figures)


def _see(
    right: Mapping[str, Shaped[np.ndarray, " _"]], captions: Sequence[str], scenes: Sequence[world.Scene]
) -> dict[str, Float[np.ndarray, " images"]]:
    """The figures of SEEN of each image."""
    named = np.array(
        [
            [name in world.named_attributes(caption, scene) for name in world.ATTRIBUTES]
            for caption, scene in zip(captions, scenes, strict=True)
        ]
    )
    attributes = np.stack([right[name] for name in world.ATTRIBUTES], axis=1)
    with np.errstate(invalid="ignore"):
        share = (attributes & named).sum(axis=1) / named.sum(axis=1)
    return {
        "class": right["class"].astype(float),
        "named": share,
        "everything": (right["class"] & (attributes | ~named).all(axis=1)).astype(float),
    }


def _read_row(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def _answers_section(answers: Answers, setting: Mapping, guidance: float, figure: str) -> str:
    parts = [
        wrap(
            f"{setting['images']} images a row, of the same held-out sounds and captions and from the same noise; "
            f"{setting['sampler']}, {setting['steps']} steps, guidance {guidance:g} where nothing else is said. "
            f"Encoders: {', '.join(setting['encoders'])}. In brackets: 95 % intervals (Wilson's of shares, the normal "
            "distribution's of means and of differences image by image)."
        ),
        "".join(f"- {name}: {meaning}.\n" for name, meaning in SEEN.items()),
        f"![What is seen in the images by the share of the text]({figure})\n",
    ]
    tables = (
        _compare_modes(answers, guidance),
        _by_alpha("class", answers, guidance),
        _by_alpha("everything", answers, guidance),
        _by_guidance(answers, guidance),
        _compare_averages(answers, guidance),
    )
    parts += [write_table(table) for table in tables]
    return "\n".join(parts)


def _encoder_names(answers: Answers) -> list[str]:
    return list(dict.fromkeys(row.conditioning for row in answers if row.conditioning != TEXT_ONLY))


def _value(answers: Answers, row: QuestionRow, figure: str) -> str:
    """A figure of a row with its interval."""
    if row not in answers:
        return NOT_MEASURED
    values = answers[row][figure]
    values = values[~np.isnan(values)]
    if figure == CLIP_SCORE:
        low, high = metrics.normal_interval(values)
        return f"{values.mean():.1f} [{low:.1f}, {high:.1f}]"
    return share_cell(float(values.mean()), len(values), "{:.1f}")


def _paired_difference(answers: Answers, one: QuestionRow, other: QuestionRow, figure: str) -> str:
    """How much a figure is higher in `one` than in `other`, image by image, and whether that is decided."""
    if one not in answers or other not in answers:
        return NOT_MEASURED
    values = 100 * (answers[one][figure] - answers[other][figure])
    values = values[~np.isnan(values)]
    low, high = metrics.normal_interval(values)
    said = "better" if low > 0 else "worse" if high < 0 else "not decided"
    return f"{values.mean():+.1f} [{low:+.1f}, {high:+.1f}], {said}"


def _compare_modes(answers: Answers, guidance: float) -> Table:
    text = QuestionRow(TEXT_ONLY, 1.0, guidance)
    rows: list[tuple[str, ...]] = [("T", *(_value(answers, text, figure) for figure in (*SEEN, CLIP_SCORE)), "", "")]
    for name in _encoder_names(answers):
        alone, both = (QuestionRow(name, alpha, guidance) for alpha in (0.0, 0.5))
        rows.append((f"A, {name}", *(_value(answers, alone, figure) for figure in (*SEEN, CLIP_SCORE)), "", ""))
        differences = (_paired_difference(answers, both, other, "everything") for other in (alone, text))
        rows.append((f"A&T, {name}", *(_value(answers, both, figure) for figure in (*SEEN, CLIP_SCORE)), *differences))
    return Table(
        "Is sound with text better than sound, and than text?",
        "In per cent, and CLIP's cosine with the caption times 100. The last two columns are differences in "
        "`everything` in percentage points: of A&T (the mean of both) over A, and over T.",
        ("", *SEEN, CLIP_SCORE, "A&T over A", "A&T over T"),
        rows,
    )


def _by_alpha(figure: str, answers: Answers, guidance: float) -> Table:
    alphas = sorted(ASKED_ALPHAS)
    rows = [
        (name, *(_value(answers, _row(name, alpha, guidance), figure) for alpha in alphas))
        for name in _encoder_names(answers)
        if name != AVERAGE_CHATBOTS
    ]
    return Table(
        f"Which share of the text: {figure}",
        f"By alpha, the share of the text, in per cent: {SEEN[figure]}. At 1 there is text alone, the same in all "
        "rows.",
        ("alpha", *(f"{alpha:g}" for alpha in alphas)),
        rows,
    )


def _by_guidance(answers: Answers, guidance: float) -> Table:
    guidances = sorted((*ASKED_GUIDANCES, guidance))
    rows = []
    for name in _encoder_names(answers):
        for mode, alpha in (("A", 0.0), ("A&T", 0.5)):
            cells = [
                _value(answers, QuestionRow(name, alpha, one), "everything" if alpha else "class") for one in guidances
            ]
            rows.append((f"{mode}, {name}", *cells))
    cells = [_value(answers, QuestionRow(TEXT_ONLY, 1.0, one), "everything") for one in guidances]
    rows = [row for row in [("T", *cells), *rows] if any(cell != NOT_MEASURED for cell in row[2:])]
    return Table(
        "How much guidance?",
        "In per cent: `class` of A, which cannot know more, and `everything` of A&T and T.",
        ("guidance", *(f"{one:g}" for one in guidances)),
        rows,
    )


def _compare_averages(answers: Answers, guidance: float) -> Table:
    averages = [name for name in (AVERAGE_EVERYONE, AVERAGE_CHATBOTS) if name in _encoder_names(answers)]
    rows = []
    for name in _encoder_names(answers):
        if name in averages:
            continue
        cells = []
        for average in averages:
            for alpha, figure in ((0.0, "class"), (0.5, "everything")):
                cells.append(
                    _paired_difference(
                        answers, QuestionRow(average, alpha, guidance), QuestionRow(name, alpha, guidance), figure
                    )
                )
        rows.append((f"over {name}", *cells))
    return Table(
        "Is an average of encoders better than each of them?",
        "Differences in percentage points: in `class` for A, in `everything` for A&T. The intervals are of one "
        "comparison each.",
        ("", *(f"{average}, {mode}" for average in averages for mode in ("A", "A&T"))),
        rows,
    )


def _curves(answers: Answers, guidance: float) -> Figure:
    """What is seen by the share of the text: a panel a figure, a color an encoder."""
    figure = Figure(figsize=(9, 3.4), layout="constrained", dpi=120)
    axes = figure.subplots(1, len(SEEN), sharey=True)
    names = [name for name in _encoder_names(answers) if name != AVERAGE_CHATBOTS]
    for axis, seen in zip(axes, SEEN, strict=True):
        for name, color in zip(names, PALETTE, strict=False):
            points = [
                (alpha, 100 * float(np.nanmean(answers[row][seen])))
                for alpha in sorted(ASKED_ALPHAS)
                if (row := _row(name, alpha, guidance)) in answers
            ]
            width = 2 if name == AVERAGE_EVERYONE else 1
            axis.plot(*np.array(points).T, ".-", color=color, label=name, linewidth=width)
        axis.set(title=seen, xlabel="alpha, the share of the text")
    axes[0].set(ylabel="%", ylim=(0, 102))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names))
    return figure
