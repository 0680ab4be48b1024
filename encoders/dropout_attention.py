"""Attention that drops weights after the softmax: one kernel on CUDA, XLA's operations elsewhere.

An encoder has 77 positions, so the queries, keys, values and weights of one head of one example fit into one program of
the kernel: no array of positions x positions leaves the chip, forwards or backwards. Masks are hashed from each
weight's place, so both ways drop the same weights.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import AxisType
from jaxtyping import Array, Bool, Float, UInt32

from encoders.attention import FUSED_DTYPES, OLDEST_FUSED, oldest_capability
from encoders.layers import hash_indices, hashed_bits

LARGEST = 128  # positions and features of a head that one program holds
HIDDEN = -1e30  # the score of a key that is not seen: exp(HIDDEN) is 0
WARPS = 8  # of a program


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def attention_with_dropout(
    q: Float[Array, "batch time heads features"],
    k: Float[Array, "batch time heads features"],
    v: Float[Array, "batch time heads features"],
    words: UInt32[Array, "2"],
    length: int,
    rate: float,
) -> Float[Array, "batch time heads features"]:
    """dropout(softmax(q k^T / sqrt(features))) v, with softmax and dropout in float32.

    The gradient computes the weights again: kept, they would be most of what a training keeps.

    Args:
        q: queries.
        k: keys.
        v: values.
        words: random; what is dropped follows from them and from a weight's place in (batch, heads, queries, keys).
        length: how many keys count, from the first on.
        rate: the share of the weights that are dropped; the others are scaled up.
    """
    return _by_platform(_forward_kernel, _attend, length, rate, 1, words, q, k, v)


def _forward(q, k, v, words, length, rate):
    return attention_with_dropout(q, k, v, words, length, rate), (q, k, v, words)


def _backward(length, rate, kept, gradient):
    # Without the barrier XLA would keep what the forward pass has computed.
    q, k, v, words, gradient = jax.lax.optimization_barrier((*kept, gradient))
    return *_by_platform(_backward_kernel, _attend_backward, length, rate, 3, words, q, k, v, gradient), None


attention_with_dropout.defvjp(_forward, _backward)


def _by_platform(kernel, plain, length, rate, results, words, *arrays) -> Any:
    """`kernel` on CUDA where a program can hold a head, `plain` elsewhere."""
    _, time, _, features = arrays[0].shape
    plain = partial(plain, length, rate)
    fits = arrays[0].dtype.name in FUSED_DTYPES and max(time, features) <= LARGEST
    # Where axes of a mesh are explicit, JAX itself would have to part the kernel, and cannot.
    fits = fits and AxisType.Explicit not in jax.typeof(arrays[0]).sharding.mesh.axis_types
    if not fits or oldest_capability() < OLDEST_FUSED:
        return plain(words, *arrays)
    fused = partial(call_kernel, partial(kernel, length, rate), results)
    return jax.lax.platform_dependent(words, *arrays, cuda=fused, default=plain)


def _attend(length, rate, words, q, k, v):
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    if length < k.shape[1]:
        scores = jnp.where((np.arange(k.shape[1]) < length)[None, None, None], scores, HIDDEN)
    dropped = _drop_weights(jax.nn.softmax(scores), hashed_bits(words, scores.shape), rate)
    return jnp.einsum("bhqk,bkhd->bqhd", dropped.astype(v.dtype), v)


def _attend_backward(length, rate, words, q, k, v, gradient):
    return jax.vjp(partial(_attend, length, rate, words), q, k, v)[1](gradient)


def _drop_weights(
    weights: Float[Array, "*shape"], bits: UInt32[Array, "*shape"], rate: float
) -> Float[Array, "*shape"]:
    return jnp.where(bits >= np.uint32(rate * 2**32), weights * (1 / (1 - rate)), 0)


def call_kernel(kernel, results: int, words: UInt32[Array, "2"], *arrays, interpret: bool = False):
    """Run a kernel over every head of every example.

    Args:
        kernel: takes references to one head of each array, to the words and to the number of the example, then those of
            its results.
        results: how many arrays it gives, of the shape and dtype of the first.
        words: for its masks.
        arrays: (batch, time, heads, features). Where they are spread over devices by the first axis, so is the work.
        interpret: whether to compute the kernel's operations without a GPU.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    def run(*operands):
        *arrays, _, _ = operands
        batch, time, heads, features = arrays[0].shape
        head = pl.BlockSpec((None, LARGEST, None, _power(features)), lambda example, head: (example, 0, head, 0))
        shape = jax.ShapeDtypeStruct(arrays[0].shape, arrays[0].dtype)
        called = pl.pallas_call(
            partial(kernel, time=time, heads=heads, features=features),
            grid=(batch, heads),
            in_specs=[
                *[head] * len(arrays),
                pl.BlockSpec((2,), lambda example, head: (0,)),
                pl.BlockSpec((None,), lambda example, head: (example,)),
            ],
            out_specs=[head] * results,
            out_shape=[shape] * results,
            compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=1),
            interpret=interpret,
            name=f"attention{kernel.func.__name__}",
        )
        return called(*operands)

    parted = custom_partitioning(run)
    names = ["b t h f"] * len(arrays)
    parted.def_partition(
        partition=lambda mesh, operands, outputs: (
            mesh,
            run,
            tuple(output.sharding for output in outputs),
            tuple(operand.sharding for operand in operands),
        ),
        sharding_rule=f"{', '.join(names)}, w, b -> {', '.join(names[:results])}",
        need_replication_factors=("t", "h", "f", "w"),  # in the order in which the rule names them
    )
    # The number of an example is an operand, for a device that has a part of the batch does not know which.
    examples = jnp.arange(len(arrays[0]), dtype=jnp.uint32)
    found = jax.custom_batching.sequential_vmap(parted)(*arrays, words, examples)
    return found[0] if results == 1 else tuple(found)


def _power(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _load_head(reference, time, features):
    from jax.experimental.pallas import triton

    return triton.load(reference, mask=_inside(reference.shape, time, features), other=0.0)


def _store_head(reference, value, time, features):
    from jax.experimental.pallas import triton

    inside = _inside(reference.shape, time, features)
    triton.store(reference, value.astype(reference.dtype), mask=inside)


def _inside(shape, time: int, features: int) -> Bool[Array, "rows columns"]:
    rows, columns = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    return (rows < time) & (columns < features)


def _weights(length, rate, words, example, q, k, time, heads, features):
    """The softmax of a head, and the bits that say which of its weights are dropped."""
    from jax.experimental import pallas as pl

    scores = _product(q, k.T) * features**-0.5
    query, key = (jax.lax.broadcasted_iota(jnp.uint32, scores.shape, axis) for axis in (0, 1))
    scores = jnp.where(key < length, scores, HIDDEN)
    exponentials = jnp.exp(scores - scores.max(axis=1, keepdims=True))
    weights = exponentials / exponentials.sum(axis=1, keepdims=True)
    head = example * np.uint32(heads) + pl.program_id(1).astype(jnp.uint32)
    place = (head * np.uint32(time) + query) * np.uint32(time) + key
    return weights, hash_indices((words[0], words[1]), place)


def _product(a, b):
    return jnp.dot(a, b, preferred_element_type=jnp.float32)


def _forward_kernel(length, rate, q, k, v, words, example, out, *, time, heads, features):
    q, k, v = (_load_head(reference, time, features) for reference in (q, k, v))
    weights, bits = _weights(length, rate, words, example[...], q, k, time, heads, features)
    _store_head(out, _product(_drop_weights(weights, bits, rate).astype(v.dtype), v), time, features)


def _backward_kernel(length, rate, q, k, v, gradient, words, example, dq, dk, dv, *, time, heads, features):
    q, k, v, gradient = (_load_head(reference, time, features) for reference in (q, k, v, gradient))
    weights, bits = _weights(length, rate, words, example[...], q, k, time, heads, features)
    _store_head(dv, _product(_drop_weights(weights, bits, rate).astype(v.dtype).T, gradient), time, features)
    towards = _drop_weights(_product(gradient, v.T), bits, rate)
    scores = weights * (towards - (weights * towards).sum(axis=1, keepdims=True)) * features**-0.5
    scores = scores.astype(q.dtype)
    _store_head(dq, _product(scores, k), time, features)
    _store_head(dk, _product(scores.T, q), time, features)
