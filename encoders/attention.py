"""Attention by what is fastest on the platform that a program is lowered for.

`jax.lax.platform_dependent` traces every branch and lowers one. The choice is therefore right under
`jax.default_device`, with two kinds of device in one process, and for a device that is not in this machine.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

QUERY_BLOCK = 128  # queries whose attention weights, over the keys of one head, stay in a CPU core's cache
FUSED_DTYPES = ("bfloat16", "float16")
OLDEST_FUSED = 8.0  # compute capability of the oldest GPUs that fused attention runs on
FUSED_MULTIPLE = 8  # positions: sides of this multiple suit every fused kernel and matrix unit


def attention(
    q: Float[Array, "batch queries heads features"],
    k: Float[Array, "batch keys heads features"],
    v: Float[Array, "batch keys heads features"],
    *,
    causal: bool = False,
    length: int | None = None,
) -> Float[Array, "batch queries heads features"]:
    """softmax(q k^T / sqrt(features)) v, with the softmax in float32.

    CUDA runs cuDNN's fused kernel where the kernel takes the dtype and the size of the heads. A CPU takes many queries
    head by head and QUERY_BLOCK at a time, which also bounds the memory. Everything else is XLA's.

    Args:
        q: queries.
        k: keys.
        v: values.
        causal: whether a query sees no key behind its own position.
        length: how many keys count, from the first on; by default all.
    """
    plain = partial(_plain_attention, causal=causal, length=length)
    branches = {}
    if q.shape[1] > QUERY_BLOCK and not causal and length is None:
        branches["cpu"] = attention_in_blocks
    elif q.dtype == jnp.float16:
        branches["cpu"] = partial(_in_float32, plain)
    if _fused_attention_exists(q, k, v):
        branches["cuda"] = partial(_fused_attention, causal, length)
    if not branches:
        return plain(q, k, v)
    return jax.lax.platform_dependent(q, k, v, **branches, default=plain)


def pad_positions(x: Float[Array, "batch positions *rest"]) -> Float[Array, "batch padded *rest"]:
    """Zeros behind the last position, up to a multiple of FUSED_MULTIPLE."""
    missing = -x.shape[1] % FUSED_MULTIPLE
    return jnp.pad(x, [(0, 0), (0, missing)] + [(0, 0)] * (x.ndim - 2)) if missing else x


def attention_in_blocks(q, k, v):
    """`attention` head by head, QUERY_BLOCK queries at a time."""

    def head(qkv):
        q, k, v = qkv

        def query(q):
            logits = jnp.dot(q, k.T, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
            return jnp.dot(jax.nn.softmax(logits).astype(v.dtype), v)

        return jax.lax.map(query, q, batch_size=QUERY_BLOCK)

    heads_first = [x.swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[3]) for x in (q, k, v)]
    out = jax.lax.map(head, tuple(heads_first))
    return out.reshape(q.shape[0], q.shape[2], q.shape[1], q.shape[3]).swapaxes(1, 2)


def _plain_attention(q, k, v, *, causal, length, implementation=None):
    # Queries behind the length attend like the others: left out, theirs would be whatever a kernel leaves there.
    lengths = None if length in (None, k.shape[1]) else jnp.full(len(k), length, jnp.int32)
    return jax.nn.dot_product_attention(
        q, k, v, is_causal=causal, key_value_seq_lengths=lengths, implementation=implementation
    )


def _in_float32(plain, q, k, v):
    """For a CPU, which lacks the product of float16 that XLA's attention asks for."""
    return plain(*(x.astype(jnp.float32) for x in (q, k, v))).astype(q.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _fused_attention(causal, length, q, k, v):
    """cuDNN's attention, with a gradient for every number of queries and keys."""
    return _plain_attention(q, k, v, causal=causal, length=length, implementation="cudnn")


def _padded_fused_attention(causal, length, q, k, v):
    """What `_fused_attention` differentiates: the gradient refuses an odd number of queries or keys, as 77."""
    padded = map(pad_positions, (q, k, v))
    out = _plain_attention(*padded, causal=causal, length=length or k.shape[1], implementation="cudnn")
    return out[:, : q.shape[1]]


_fused_attention.defvjp(
    lambda causal, length, q, k, v: jax.vjp(partial(_padded_fused_attention, causal, length), q, k, v),
    lambda causal, length, gradient, out: gradient(out),
)


def _fused_attention_exists(q, k, v) -> bool:
    """Whether a program with cuDNN's attention of these shapes would run on every CUDA device that it may meet.

    JAX itself refuses what cuDNN's kernel does not take (NotImplementedError: the size of the heads) and what this
    installation cannot lower (RuntimeError: no cuDNN).
    """
    if q.dtype.name not in FUSED_DTYPES or oldest_capability() < OLDEST_FUSED:
        return False
    try:
        traced = partial(_padded_fused_attention, False, None)
        jax.eval_shape(traced, *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)))
    except (NotImplementedError, RuntimeError):
        return False
    return True


def oldest_capability() -> float:
    """The compute capability of the oldest CUDA device that a program may meet.

    The device of a program is not known while the program is traced. The oldest CUDA device of this process therefore
    decides; without any, the program is for another machine, and its GPU is taken to be the oldest that fused attention
    runs on.
    """
    try:
        return min(float(device.compute_capability) for device in jax.devices("cuda"))
    except RuntimeError:  # no such device here
        return OLDEST_FUSED
