"""Measures audio encoders on a split of a data set: the paper's tables (arXiv 2509.09717) and what they leave unsaid.

docs/evaluation.md explains the figures that jaxsd.evaluation.figures declares.
"""

import sys
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from flax import nnx
from jaxtyping import Float

from encoders import contract
from jaxsd.clip.pooling import TEXT_POOLINGS
from jaxsd.evaluation.conditionings import (
    NO_CAPTION,
    OWN_CAPTION,
    REFERENCES,
    EvaluatedConditioning,
    TextTower,
    encode_audio,
    encoder_conditioning,
)
from jaxsd.evaluation.denoising import FrozenUNet
from jaxsd.evaluation.embeddings import EmbeddingStatistics, Targets, add_alignment
from jaxsd.evaluation.images import ImageFigures, ImageJudge, draw_images, embed_first
from jaxsd.evaluation.inputs import EvaluatedEncoder, EvaluationSplit, check_fit
from jaxsd.evaluation.kept_images import keep_images, keep_sounds
from jaxsd.evaluation.results import Entry, Results, empty_results
from jaxsd.evaluation.similarity import AudioImageEmbedding
from jaxsd.evaluation.timing import time_encoding
from jaxsd.runtime.progress import Progress, counted
from jaxsd.runtime.sharding import padded_batches

EVALUATED_TOGETHER = 50  # clips
REAL_IMAGES = "real images"


def check_image_count(image_count: int, clips: int) -> None:
    """Raise ValueError where so many images cannot be drawn for a split of so many clips."""
    if image_count and not 2 <= image_count <= clips:
        raise ValueError(f"the number of images is {image_count}; allowed: 0, or 2 to {clips}")


def check_repeats(repeats: int) -> None:
    """Raise ValueError where encoding cannot be timed so often."""
    if repeats < 0:
        raise ValueError(f"repeats is {repeats}; allowed: from 0")


def evaluate(
    encoders: Sequence[EvaluatedEncoder],
    split: EvaluationSplit,
    *,
    text_pooling: str = "eos",
    repeats: int = 0,
    references: Collection[str] = REFERENCES,
    image_count: int = 0,
    guidance: float | None = None,
    steps: int | None = None,
    judge: ImageJudge | None = None,
    similarity: AudioImageEmbedding | None = None,
    real_images: Float[np.ndarray, "n height width 3"] | None = None,
    images_folder: Path | None = None,
    speed: tuple[float, float] | None = None,
) -> Results:
    """Compute every figure of every encoder over the whole split.

    Memory is linear in the split: of a clip's 77 embeddings, only the vector pooled from them is kept.

    Args:
        encoders: what to evaluate.
        split: the data, and the models that their features are of.
        text_pooling: the text target of the paper's figures: "eos", CLIP's own, or "bos", the same for every caption.
        repeats: how often encoding the split is timed.
        references: the conditionings that stand beside the encoders. "class caption" is among them only where the
            split has classes, and "no caption" always.
        image_count: how many images to draw under every conditioning, of the first clips of the split.
        guidance: the weight of guidance for these images, by default the model's own.
        steps: the sampling steps for these images, by default the model's own.
        judge: gives verdicts on the images; see `jaxsd.evaluation.images.ImageJudge`.
        similarity: embeds sounds and images for AIS. By default the evaluated encoder and CLIP do.
        real_images: the true images of the first clips, in [0, 1], which show how far each measure can go.
        speed: the seconds that a clip and an image took under one conditioning on two CPU cores, where they were
            measured. It is said beforehand how long the evaluation takes.
        images_folder: where to keep the images and some of their sounds, for the report and for people.

    Returns:
        The results as results.json holds them.

    Raises:
        ValueError: an argument is not allowed, an encoder does not fit the data, or an embedding is not finite.
    """
    if text_pooling not in TEXT_POOLINGS:
        raise ValueError(f"text pooling is {text_pooling!r}; allowed: {', '.join(TEXT_POOLINGS)}")
    check_repeats(repeats)
    if image_count and not split.pipe:
        raise ValueError(f"{split.folder} has no latents, so it names no models to draw images with")
    check_image_count(image_count, len(split))
    for encoder in encoders:
        check_fit(encoder, split)

    text = TextTower(split)
    unet = FrozenUNet(split.pipe, split.columns["latents"]) if split.pipe else None
    conditionings = {one.name: encoder_conditioning(one.encoder, one, split) for one in encoders}
    conditionings |= {
        name: reference for name, reference in text.references().items() if name in (*references, NO_CAPTION)
    }
    drawn = {name: one for name, one in conditionings.items() if image_count and (one.pooling or name in references)}
    clips, drawings = len(split) * len(conditionings), image_count * len(drawn)
    under = counted(len(conditionings), "conditioning")
    work = f"{len(split):,} clips under {under}, {counted(drawings, 'image')} to draw"
    if speed:
        work += f",\nabout {max(1, round((speed[0] * clips + speed[1] * drawings) / 60))} min on two CPU cores"
    print(work, file=sys.stderr, flush=True)
    passing = {name: EmbeddingStatistics(one, split, unet) for name, one in conditionings.items()}
    before = {
        one.name: EmbeddingStatistics(encoder_conditioning(one.before, one, split), split)
        for one in encoders
        if one.before
    }
    with Progress("evaluate", len(split), unit="clip", compiles=True) as progress:
        for indices, count in padded_batches(len(split), min(EVALUATED_TOGETHER, len(split))):
            states = text.hidden_states_at(indices)
            for statistics in (*passing.values(), *before.values()):
                statistics.add(indices, count, states)
            progress.advance(int(indices[count - 1]) + 1)

    targets = Targets(
        split.embeddings("text"), split.embeddings("image"), text.start_embedding() if text_pooling == "bos" else None
    )
    entries = {name: statistics.entry(targets) for name, statistics in passing.items()}
    if OWN_CAPTION in entries:
        add_alignment(entries[OWN_CAPTION], targets.text, targets)
    if unet:
        for name, statistics in passing.items():
            entries[name].estimate("denoising", statistics.denoising)
            entries[name].estimate("denoising gain", passing[NO_CAPTION].denoising - statistics.denoising)
    if repeats:
        for name, (encode, inputs) in _timed(encoders, split, text).items():
            if name in entries:
                entries[name].set(time_encoding(encode, inputs, repeats))
    if image_count and split.pipe:
        images = _draw_all(drawn, text, image_count, partial(draw_images, split.pipe, guidance=guidance, steps=steps))
        figures = ImageFigures(split, targets, judge, similarity)
        if real_images is not None:
            entries[REAL_IMAGES], images[REAL_IMAGES] = Entry(), real_images
        for name, made in images.items():
            right = figures.add(entries[name], made, passing[name].vectors if name in passing else None)
            if images_folder:
                entries[name].about["images"] = keep_images(images_folder, name, made, right)
    for one in encoders:
        entries[one.name].about |= {"source": one.source, "table 2": layer_counts(one.encoder)}
        if one.before:
            entries[one.name].about["before"] = before[one.name].entry(targets).figures
    kept = {"gallery": keep_sounds(images_folder, split, image_count)} if image_count and images_folder else {}
    return (
        empty_results(split, text_pooling, similarity.name if similarity else None)
        | kept
        | {
            "encoders": {one.name: entries.pop(one.name).to_json() for one in encoders},
            "references": {name: entry.to_json() for name, entry in entries.items()},
        }
    )


def layer_counts(encoder: nnx.Module) -> dict[str, float]:
    """Layers as the paper's Table 2 counts them, parameters, and floating-point operations a clip."""
    counts = contract.count_layers(encoder)
    return {
        **{layer: counts[layer] for layer in contract.PAPER_LAYERS},
        "parameters": contract.parameter_count(encoder),
        "FLOPs": contract.flops_per_clip(encoder),
    }


def _timed(
    encoders: Sequence[EvaluatedEncoder], split: EvaluationSplit, text: TextTower
) -> dict[str, tuple[Callable, np.ndarray]]:
    """What is timed, and on which column: the encoders, and as in the paper CLIP's text tower."""
    audio, tokens = split.columns["audio"], split.columns["tokens"]
    timed = {one.name: (partial(encode_audio, one.encoder), audio) for one in encoders}
    return timed | {OWN_CAPTION: (text.hidden_states, tokens)}


def _draw_all(
    conditionings: dict[str, EvaluatedConditioning], text: TextTower, count: int, draw: Callable
) -> dict[str, Float[np.ndarray, "{count} height width 3"]]:
    """The images of the first `count` clips under every conditioning."""
    images = {}
    with Progress("images", count * len(conditionings), unit="image", compiles=True) as progress:
        for number, (name, conditioning) in enumerate(conditionings.items()):
            embeddings = embed_first(conditioning, text, count)
            before = number * count
            images[name] = draw(embeddings, progress=lambda done, before=before: progress.advance(before + done))
    return images
