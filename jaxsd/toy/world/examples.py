"""Examples of the toy world as rows of a data set; for worker processes, so nothing here imports JAX."""

from collections.abc import Sequence

import numpy as np

from jaxsd.data.workers import Examples
from jaxsd.toy import world


def make(items: Sequence[tuple[str, int]], seed: int) -> Examples:
    """The examples at these places (split, index)."""
    examples = [world.example(split, index, seed) for split, index in items]
    pictures = np.stack([example.image for example in examples])
    return Examples(
        columns={
            "audio": np.stack([example.audio for example in examples]),
            "thing": np.array([world.THINGS.index(example.scene.thing) for example in examples], np.int32),
        },
        captions=[example.caption for example in examples],
        pictures=pictures,
        vae_pictures=pictures,
        bad={},
    )
