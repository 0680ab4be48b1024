"""An encoder's 77 vectors as one in CLIP's shared space."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsd.clip.towers import normalize

TEXT_POOLINGS = ("eos", "bos")  # where a text's embedding is taken: at its end, as CLIP does, or at its start
POOLINGS = {"mean": lambda x: x.mean(axis=1), "first": lambda x: x[:, 0], "last": lambda x: x[:, -1]}


def pool_embeddings(
    embeddings: Float[Array, "batch tokens features"],
    projection: Float[Array, "features projection"],
    pooling: str = "mean",
) -> Float[Array, "batch projection"]:
    """An encoder's 77 vectors as one of unit norm: their mean, first or last, through CLIP's text projection.

    The paper (arXiv 2509.09717) does not say which of these it takes.
    """
    return normalize(jnp.matmul(POOLINGS[pooling](embeddings), projection, precision="highest"))
