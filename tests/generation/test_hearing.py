"""What is heard in a sound."""

import numpy as np
import pytest

from jaxsd.clip.pipeline import CLIP
from jaxsd.generation.hearing import hear
from jaxsd.pretrained.weights import open_tensors
from jaxsd.runtime.bundled import TOY_CAPTIONS, clip_source
from jaxsd.toy import world


@pytest.fixture(scope="module")
def captions() -> np.ndarray:
    return np.asarray(open_tensors([TOY_CAPTIONS])["embeddings"])


def embeddings_of(vectors: np.ndarray) -> np.ndarray:
    """Embeddings whose means are projected to these vectors."""
    projection = np.asarray(open_tensors([clip_source("toy") / "model.safetensors"])["text_projection.weight"])
    means = vectors @ np.linalg.pinv(projection.T.astype(np.float64))
    return np.repeat(means[:, None], 77, axis=1).astype(np.float32)


def test_the_nearest_caption_is_heard(captions):
    heard = hear(embeddings_of(3 * captions))
    assert [one.class_name for one in heard] == list(world.CLASSES)
    cosines = captions @ captions[2]
    shares = np.exp(cosines / 0.07)
    assert heard[2].cosine == pytest.approx(1, abs=1e-4)
    assert heard[2].share == pytest.approx(shares[2] / shares.sum(), abs=1e-3)


def test_what_is_between_all_is_like_none(captions):
    clear, unclear = map(str, hear(embeddings_of(np.stack([captions[5], captions.mean(axis=0)]))))
    assert clear.startswith("sounds like a dog barking (")
    assert unclear.startswith("sounds like none of them; the nearest is ")


def test_the_captions_are_those_of_the_bundled_clip(captions):
    texts = [world.class_caption(name) for name in world.CLASSES]
    embedded = CLIP.from_pretrained(clip_source("toy"), dtype=np.float32).embed_text(texts)
    np.testing.assert_allclose(captions, np.asarray(embedded), atol=1e-5)
    heard = hear(embeddings_of(captions))
    assert [(one.class_name, one.caption) for one in heard] == list(zip(world.CLASSES, texts, strict=True))
