"""An encoder's 77 vectors as one in CLIP's shared space."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsd.clip.towers import normalise

TEXT_POOLINGS = ("eos", "bos")  # where a text's embedding is taken: at its end, as CLIP does, or at its start
POOLINGS = {"mean": lambda rows: rows.mean(axis=1), "first": lambda rows: rows[:, 0], "last": lambda rows: rows[:, -1]}


def pool_embeddings(
    rows: Float[Array, "batch tokens features"], projection: Float[Array, "features projection"], pooling: str = "mean"
) -> Float[Array, "batch projection"]:
    """An encoder's output as one unit-norm vector: its pooled row (mean, first or last) through CLIP's text projection.

    The paper (arXiv 2509.09717) names neither the row nor the mean.
    """
    return normalise(jnp.matmul(POOLINGS[pooling](rows), projection, precision="highest"))
