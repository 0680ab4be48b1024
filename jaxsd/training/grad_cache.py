"""Exact gradients of a loss that couples all examples of a batch, a part of the batch at a time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def value_and_gradient(encode: Callable, combine: Callable, parts: int = 1) -> Callable:
    """`gradient(params, batch, key) -> ((loss, metrics), gradients)` of a loss that couples all rows of a batch.

    `encode(params, rows, key) -> outputs`, row by row, is where the memory goes: it sees the batch in `parts`.
    `combine(params, outputs, batch) -> (loss, metrics)` sees the outputs of all rows. The result is that of the whole
    batch at once, however many parts (GradCache, Gao et al., arXiv 2101.06983): the outputs are computed without
    gradients, then the loss's gradient with respect to them, then every part's vector-Jacobian product.
    Of every array in `batch`, and of the outputs, the first axis must be a multiple of `parts`.
    """
    if parts == 1:
        return jax.value_and_grad(
            lambda params, batch, key: combine(params, encode(params, batch, key), batch), has_aux=True
        )

    # Part p has rows p, p + parts, ...: a sharded batch stays spread over all devices, and the first rows of the batch
    # are the first rows of the parts.
    def split(tree):
        return jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), tree)

    def join(tree):
        return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)

    def gradient(params, batch, key):
        pieces, keys = split(batch), jax.random.split(key, parts)
        outputs = join(jax.lax.map(lambda piece: encode(params, *piece), (pieces, keys)))
        result, (direct, wanted) = jax.value_and_grad(combine, argnums=(0, 1), has_aux=True)(params, outputs, batch)

        def add_piece(total, piece):
            rows, key, cotangents = piece
            _, pull = jax.vjp(lambda params: encode(params, rows, key), params)
            return jax.tree.map(jnp.add, total, *pull(cotangents)), None

        return result, jax.lax.scan(add_piece, direct, (pieces, keys, split(wanted)))[0]

    return gradient
