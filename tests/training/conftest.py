"""A prepared data set of random examples, whose models are tiny."""

import numpy as np
import pytest

from jaxsd.data.columns import write_columns
from tests.helpers import models


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A prepared data set of random rows, whose models are folders."""
    folder = tmp_path_factory.mktemp("data")
    models.clip().save_pretrained(folder / "clip")
    models.stable_diffusion().save_pretrained(folder / "diffusion")
    rng = np.random.default_rng(0)
    for split, size in (("train", 40), ("validation", 21)):
        embeddings = rng.standard_normal((2, size, 20))
        text, image = (embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)).astype(np.float16)
        columns = {
            "audio": rng.integers(-9000, 9000, (size, 16_000)).astype(np.int16),
            "text": text,
            "image": image,
            "tokens": rng.integers(0, models.TEXT.vocab_size, (size, 77)).astype(np.int32),
            "latents": rng.standard_normal((size, 8, 8, 4)).astype(np.float16),
        }
        about = {"clip": str(folder / "clip"), "diffusion": str(folder / "diffusion")}
        write_columns(folder / split, columns, about)
    return folder
