"""Token merging (Bolya and Hoffman, arXiv 2303.17604): self-attention over fewer tokens, the most similar ones merged.

One of each 2 x 2 tokens of a map is a destination. Of the others, a share of all tokens is merged into its most similar
destination, as their mean; behind the attention, each merged token gets what came out for its destination.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class TokenMerging(NamedTuple):
    """merge: The tokens (batch, all, features) to fewer, (batch, left, features). unmerge: Back to all."""

    merge: Callable[[Array], Array]
    unmerge: Callable[[Array], Array]


def merge_similar(x: Float[Array, "batch tokens features"], height: int, width: int, share: float) -> TokenMerging:
    """How the tokens of a map, in the order of its rows, are merged; `share` of them go into others, at most 3 / 4."""
    destinations = np.zeros((height, width), bool)
    destinations[: height // 2 * 2 : 2, : width // 2 * 2 : 2] = True
    destinations, sources = np.flatnonzero(destinations), np.flatnonzero(~destinations)
    merged_count = min(len(sources), int(share * height * width))
    if not merged_count or not len(destinations):
        return TokenMerging(lambda x: x, lambda x: x)

    x = jax.lax.stop_gradient(x.astype(jnp.float32))
    x = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    similarity = x[:, sources] @ x[:, destinations].swapaxes(1, 2)
    nearest = jnp.argmax(similarity, axis=-1)
    order = jnp.argsort(-jnp.max(similarity, axis=-1), axis=-1)
    merged, kept = order[:, :merged_count], order[:, merged_count:]
    into = jnp.take_along_axis(nearest, merged, axis=1)

    def take(tokens, indices):
        return jnp.take_along_axis(tokens, indices[..., None], axis=1)

    def merge(tokens):
        others, means = tokens[:, sources], tokens[:, destinations]
        add = jax.vmap(lambda total, indices, values: total.at[indices].add(values))
        counts = add(jnp.ones(means.shape[:2], means.dtype), into, jnp.ones(into.shape, means.dtype))
        means = add(means, into, take(others, merged)) / counts[..., None]
        return jnp.concatenate([take(others, kept), means], axis=1)

    def unmerge(tokens):
        others, means = jnp.split(tokens, [len(sources) - merged_count], axis=1)
        put = jax.vmap(lambda filled, indices, values: filled.at[indices].set(values))
        filled = jnp.zeros((len(tokens), height * width, tokens.shape[-1]), tokens.dtype)
        filled = filled.at[:, destinations].set(means)
        filled = put(filled, jnp.asarray(sources)[kept], others)
        return put(filled, jnp.asarray(sources)[merged], take(means, into))

    return TokenMerging(merge, unmerge)
