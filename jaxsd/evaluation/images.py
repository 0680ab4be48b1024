"""Images drawn under a conditioning, and their figures."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxsd.diffusion.pipeline import StableDiffusion, to_pil
from jaxsd.evaluation import metrics
from jaxsd.evaluation.conditionings import EvaluatedConditioning, TextTower
from jaxsd.evaluation.denoising import MOST_POSITIONS
from jaxsd.evaluation.embeddings import Targets
from jaxsd.evaluation.figures import verdict_figure
from jaxsd.evaluation.inputs import EvaluationSplit
from jaxsd.evaluation.results import Entry
from jaxsd.evaluation.similarity import AudioImageEmbedding
from jaxsd.runtime.sharding import padded_batches

DRAWN_TOGETHER = 50  # images

ImageJudge = Callable[[Float[np.ndarray, "n height width 3"]], Mapping[str, Bool[np.ndarray, " _"]]]
"""Gives, by question, in which of the images the judge sees what is true, or in which of a part of them."""


def draw_images(
    pipe: StableDiffusion,
    embeddings: Float[Array | np.ndarray, "n 77 features"],
    *,
    guidance: float | None = None,
    steps: int | None = None,
    progress: Callable[[int], object] = lambda done: None,
) -> Float[np.ndarray, "n height width 3"]:
    """Draw one image of each clip's embeddings.

    Args:
        pipe: the Stable Diffusion that draws.
        embeddings: the conditioning.
        guidance: the weight of guidance, by default the model's own.
        steps: the number of sampling steps, by default the model's own.
        progress: is told how many images are drawn.

    Returns:
        float32 in [0, 1]. An image is a function of its embeddings and its index.
    """
    images = []
    size = min(DRAWN_TOGETHER, len(embeddings), max(1, MOST_POSITIONS // pipe.unet.config.sample_size**2))
    for indices, count in padded_batches(len(embeddings), size):
        key = jax.random.fold_in(jax.random.key(1), int(indices[0]))
        images.append(
            np.asarray(pipe(jnp.asarray(embeddings[indices]), guidance=guidance, steps=steps, key=key))[:count]
        )
        if not np.isfinite(images[-1]).all():
            raise ValueError("the U-Net or the VAE makes images that are not finite; are its weights whole?")
        progress(int(indices[count - 1]) + 1)
    return np.concatenate(images)


def embed_first(
    conditioning: EvaluatedConditioning, text: TextTower, count: int
) -> Float[np.ndarray, "{count} 77 features"]:
    """The embeddings of the first `count` clips of a split."""
    parts = [
        np.asarray(conditioning.embed(indices, text.hidden_states_at(indices)))[:number]
        for indices, number in padded_batches(count, DRAWN_TOGETHER)
    ]
    return np.concatenate(parts)


class ImageFigures:
    """Measures images of the first clips of a split by CLIP and, where there is one, by a judge."""

    def __init__(
        self,
        split: EvaluationSplit,
        targets: Targets,
        judge: ImageJudge | None,
        similarity: AudioImageEmbedding | None = None,
    ):
        self.split, self.targets, self.judge, self.similarity = split, targets, judge, similarity
        self.sounds = np.zeros((0, 0))
        self.labels, self.class_texts = None, np.zeros((0, 0))
        if split.classes is not None:
            self.labels = split.classes.labels
            self.class_texts = np.asarray(split.clip.embed_text(list(split.classes.captions)))

    def add(
        self,
        entry: Entry,
        images: Float[np.ndarray, "n height width 3"],
        vectors: Float[np.ndarray, "M projection"] | None = None,
    ) -> Bool[np.ndarray, " n"] | None:
        """Add the figures of images; `vectors` are those of the sounds that the images are of, if there are any.

        Returns in which images the judge sees the right class, or None where no judge says so.
        """
        count = len(images)
        entry.set({"pictures": count})
        seen = np.asarray(self.split.clip.embed_images(to_pil(images)))
        own = np.einsum("ij,ij->i", seen, self.targets.text[:count])
        entry.estimate("CLIP score", 100 * np.maximum(0, own))
        true = self.targets.image[:count]
        _add_similarity(entry, "IIS", seen, true)
        entry.estimate("CMMD", metrics.kernel_distances(seen, true, metrics.cmmd_kernel))
        entry.estimate("KID", metrics.kernel_distances(seen, true, metrics.kid_kernel))
        if self.similarity is not None:
            if len(self.sounds) < count:
                self.sounds = self.similarity.embed_audio(self.split.columns["audio"][:count])
            _add_similarity(entry, "AIS", self.similarity.embed_images(images), self.sounds[:count])
        elif vectors is not None:
            _add_similarity(entry, "AIS", seen, vectors[:count])
        if self.labels is not None:
            nearest_class = (seen @ self.class_texts.T).argmax(axis=1)
            entry.estimate("AIC", nearest_class == self.labels[:count])
        verdicts = self.judge(images) if self.judge else {}
        for question, right in verdicts.items():
            if len(right):
                entry.estimate(verdict_figure(question), right)
        return verdicts.get("class")


def _add_similarity(entry: Entry, key: str, images: np.ndarray, own: np.ndarray):
    """Add a similarity in both its meanings: the share of others that are farther than the own, and the cosine."""
    alignment = metrics.align(images, own)
    entry.estimate(key, alignment.forward.beaten)
    entry.estimate(f"{key} cosine", alignment.matched)
