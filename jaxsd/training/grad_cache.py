"""Exact gradients of a loss that couples all examples of a batch, a part of the batch at a time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def value_and_gradient(encode: Callable, combine: Callable, parts: int = 1) -> Callable:
    """The gradient of a loss that couples all examples of a batch (GradCache, Gao et al., arXiv 2101.06983).

    The result is that of the whole batch at once, however many parts there are: the outputs of all parts are computed
    without gradients, then the loss's gradient with respect to these, then every part's vector-Jacobian product.

    Args:
        encode: `encode(params, examples, key) -> outputs`, each of its own example alone. Its activations need the
            memory; it sees the batch in `parts`.
        combine: `combine(params, outputs, batch) -> (loss, metrics)` sees the outputs of all examples.
        parts: must divide the first axis of every array of the batch and of the outputs.

    Returns:
        `gradient(params, batch, key) -> ((loss, metrics), gradients)`.
    """
    if parts == 1:
        return jax.value_and_grad(
            lambda params, batch, key: combine(params, encode(params, batch, key), batch), has_aux=True
        )

    # Part p has examples p, p + parts, ...: a sharded batch stays spread over all devices, and the first examples of
    # the batch are the first examples of the parts.
    def split(tree):
        return jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), tree)

    def join(tree):
        return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)

    def gradient(params, batch, key):
        pieces, keys = split(batch), jax.random.split(key, parts)
        outputs = join(jax.lax.map(lambda piece: encode(params, *piece), (pieces, keys)))
        result, (direct, wanted) = jax.value_and_grad(combine, argnums=(0, 1), has_aux=True)(params, outputs, batch)

        def add_piece(total, piece):
            examples, key, cotangents = piece
            _, pull = jax.vjp(lambda params: encode(params, examples, key), params)
            return jax.tree.map(jnp.add, total, *pull(cotangents)), None

        return result, jax.lax.scan(add_piece, direct, (pieces, keys, split(wanted)))[0]

    return gradient
