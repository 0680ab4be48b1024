"""Figures of embeddings: what is gathered of a conditioning batch by batch, and what comes of it over the split."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxsd.clip.pooling import pool_embeddings
from jaxsd.evaluation import metrics
from jaxsd.evaluation.conditionings import EvaluatedConditioning
from jaxsd.evaluation.denoising import FrozenUNet
from jaxsd.evaluation.inputs import EvaluationSplit
from jaxsd.evaluation.results import Entry

PERMUTATIONS = 1_000  # of the test for alignment
REGRESSED_TOGETHER = 1_000  # vectors
COSINE_BINS = np.linspace(-1, 1, 101)  # of the histograms of cosines


@dataclass(frozen=True)
class Targets:
    """What pooled embeddings are compared with: CLIP's unit-norm embeddings of captions and images.

    `start` is the text embedding pooled at the text's start, where that is the text target of the paper's figures.
    """

    text: Float[np.ndarray, "M projection"]
    image: Float[np.ndarray, "M projection"]
    start: Float[np.ndarray, " projection"] | None = None

    @property
    def paper_text(self) -> Float[np.ndarray, "M projection"]:
        """The text target of the paper's figures."""
        return self.text if self.start is None else np.broadcast_to(self.start, self.text.shape)


class EmbeddingStatistics:
    """What is kept of a conditioning's embeddings as they go by: sums, and a vector a clip, never the embeddings."""

    def __init__(self, conditioning: EvaluatedConditioning, split: EvaluationSplit, unet: FrozenUNet | None = None):
        self.conditioning, self.unet = conditioning, unet
        self.projection = jnp.asarray(split.clip.model.text_projection.kernel[...])
        tokens, width = split.columns["tokens"].shape[1], split.clip.model.text_model.config.hidden_size
        self.cosines, self.count = np.zeros(tokens), 0
        self.regression = metrics.Regression(tokens * width)
        self._vectors, self._errors = [], []

    def add(self, indices: Int[np.ndarray, " batch"], count: int, states: Float[Array, "batch 77 width"]):
        """Take in the `count` first clips of a batch, whose captions have the hidden states `states`.

        Raises ValueError where an embedding is not finite, or the vector pooled from it is zero.
        """
        made = self.conditioning.embed(indices, states)
        embeddings, targets = np.asarray(made)[:count], np.asarray(states)[:count]
        pooled = np.asarray(pool_embeddings(made, self.projection, self.conditioning.pooling or "mean"))[:count]
        finite = np.isfinite(embeddings).all(axis=(1, 2)) & np.isfinite(pooled).all(axis=1)
        if not finite.all():
            clip = indices[finite.argmin()]
            raise ValueError(
                f"{self.conditioning.source} makes values that are not finite, or nothing but zeros, of clip {clip}"
            )
        self.cosines += _cosine_similarities(embeddings, targets).sum(axis=0)
        self.count += count
        if self.conditioning.pooling:
            self._vectors.append(pooled)
            self.regression.add(embeddings.reshape(count, -1), targets.reshape(count, -1))
        if self.unet:
            errors = np.asarray(self.unet.errors(indices, made), np.float64)[:count]
            if not np.isfinite(errors).all():
                raise ValueError(f"the U-Net's error under {self.conditioning.source} is not finite")
            self._errors.append(errors)

    @property
    def vectors(self) -> Float[np.ndarray, "M projection"] | None:
        """The unit-norm vectors pooled from the embeddings; None where those are not compared."""
        return np.concatenate(self._vectors) if self._vectors else None

    @property
    def denoising(self) -> Float[np.ndarray, " M"]:
        """The frozen U-Net's error under each clip's embeddings."""
        return np.concatenate(self._errors)

    def entry(self, targets: Targets) -> Entry:
        """The figures of all that went by, but for denoising."""
        entry = Entry(curves={"positions": (self.cosines / self.count).tolist()})
        if self.vectors is not None:
            add_alignment(entry, self.vectors, targets)
            entry.set({f"{name}_rt": value for name, value in self.regression.figures().items()})
            entry.estimate("mu(MSE)_rt", self.regression.row_errors)
            entry.set({"cosine_rt": float(self.cosines.mean() / self.count)})
        return entry


def add_alignment(entry: Entry, vectors: Float[np.ndarray, "M projection"], targets: Targets):
    """Add the figures of pooled, unit-norm vectors: those of the paper, against `targets.paper_text`, and the rest."""
    text = metrics.align(vectors, targets.text, permutations=PERMUTATIONS)
    image = metrics.align(vectors, targets.image, permutations=PERMUTATIONS)
    paper_text = text if targets.start is None else metrics.align(vectors, targets.paper_text)
    entry.estimate("loss", (paper_text.losses + image.losses) / 6)
    for subscript, losses, target in (("t", paper_text.losses, targets.paper_text), ("i", image.losses, targets.image)):
        _add_paper_figures(entry, subscript, losses, vectors, target)
    for subscript, alignment, target in (("t", text, targets.text), ("i", image, targets.image)):
        entry.estimate(f"cosine_{subscript}", alignment.matched)
        entry.set({f"cosine of others_{subscript}": alignment.mismatched, f"p_{subscript}": alignment.p_value})
        others = np.einsum("ij,ij->i", vectors, np.roll(target, 1, axis=0))
        for name, cosines in (("matched", alignment.matched), ("mismatched", others)):
            histogram, _ = np.histogram(np.clip(cosines, -1, 1), COSINE_BINS)
            entry.curves[f"{name}_{subscript}"] = histogram.tolist()
    for direction, ranks in metrics.directions(text, image).items():
        for k in metrics.RECALLS:
            entry.estimate(f"R@{k}_{direction}", ranks.hits(k))
        entry.estimate(f"medR_{direction}", ranks.middle)
        recall = [float(ranks.hits(k).mean()) for k in metrics.recall_points(len(vectors))]
        entry.curves[f"recall_{direction}"] = recall


def _add_paper_figures(entry: Entry, subscript: str, losses, vectors, target):
    chance, floor = metrics.chance(len(vectors)), metrics.floor(len(vectors))
    entry.estimate(f"TCEOCS_{subscript}", losses)
    entry.estimate(f"reach_{subscript}", (chance - losses) / (chance - floor))
    regression = metrics.Regression(vectors.shape[1])
    for start in range(0, len(vectors), REGRESSED_TOGETHER):
        part = slice(start, start + REGRESSED_TOGETHER)
        regression.add(vectors[part], target[part])
    entry.set({f"{name}_{subscript}": value for name, value in regression.figures().items()})
    entry.estimate(f"mu(MSE)_{subscript}", regression.row_errors)


def _cosine_similarities(a: Float[np.ndarray, "*n d"], b: Float[np.ndarray, "*n d"]) -> Float[np.ndarray, "*n"]:
    """Cosines along the last axis, 0 where a vector is zero."""
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.einsum("...i,...i->...", a, b) / np.where(norms == 0, 1, norms)
