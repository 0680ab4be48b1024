"""Losses: contrastive alignment with CLIP's embeddings, and denoising through the U-Net."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import logsumexp
from jaxtyping import Array, Bool, Float

PyTree = Any
BLOCK = 1024  # columns of similarities at a time
NOTHING = -1e30  # the logarithm of no probability; finite, so that gradients of what is left out are 0 and not NaN


def cross_entropies(
    rows: Float[Array, "batch features"],
    columns: Float[Array, "batch features"],
    scale: float | jax.Array = 1.0,
    valid: Bool[Array, " batch"] | None = None,
    block: int = BLOCK,
) -> Float[Array, ""]:
    """CE(P) + CE(P^T) of P = scale * rows columns^T against the identity: TCEOCS of the paper (arXiv 2509.09717).

    Rows of both are unit-norm float32; those that are not `valid` count for nothing. Chance level is 2 ln(batch).
    P is computed `block` columns at a time, forwards and backwards, so memory grows linearly with the batch.
    """
    size = len(rows)
    valid = jnp.ones(size, bool) if valid is None else valid
    count = -(-size // block)
    width = -(-size // count)

    def in_blocks(x):
        return jnp.pad(x, [(0, count * width - size)] + [(0, 0)] * (x.ndim - 1)).reshape(count, width, *x.shape[1:])

    @jax.checkpoint
    def add_block(row_sums, part):
        columns, counted = part
        logits = scale * jnp.matmul(rows, columns.T, precision="highest")
        column_sums = logsumexp(jnp.where(valid[:, None], logits, NOTHING), axis=0)
        return jnp.logaddexp(row_sums, logsumexp(jnp.where(counted[None], logits, NOTHING), axis=1)), column_sums

    row_sums, column_sums = jax.lax.scan(add_block, jnp.full(size, NOTHING), (in_blocks(columns), in_blocks(valid)))
    matches = scale * jnp.sum(rows * columns, axis=1)
    return jnp.mean(row_sums + column_sums.reshape(-1)[:size] - 2 * matches, where=valid)
