"""Convolution and attention by what is fastest on the platform that a program is lowered for.

`jax.lax.platform_dependent` traces every branch and lowers one. The choice is therefore right under
`jax.default_device`, with two kinds of device in one process, and for a device that is not in this machine.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

SMALL_MAP = 64  # positions up to which XLA's convolution on the CPU loses to a matrix product
QUERY_BLOCK = 128  # queries whose attention weights, over the keys of one head, stay in a CPU core's cache
FUSED_DTYPES = ("bfloat16", "float16")
OLDEST_FUSED = 8.0  # compute capability of the oldest GPUs that cuDNN's fused attention runs on


def convolve(x, kernel, strides, padding, **options):
    """`jax.lax.conv_general_dilated` of stride 1. On a CPU, a small map becomes one matrix product of all patches."""

    def by_xla(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)

    def by_product(x, kernel):
        height, width = x.shape[1:3]
        x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
        patches = [x[:, i : i + height, j : j + width] for i in range(kernel.shape[0]) for j in range(kernel.shape[1])]
        return jnp.dot(jnp.concatenate(patches, axis=-1), kernel.reshape(-1, kernel.shape[-1]))

    if x.shape[1] * x.shape[2] > SMALL_MAP:
        return by_xla(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cpu=by_product, default=by_xla)


def attention(
    q: Float[Array, "batch queries heads features"],
    k: Float[Array, "batch keys heads features"],
    v: Float[Array, "batch keys heads features"],
) -> Float[Array, "batch queries heads features"]:
    """softmax(q k^T / sqrt(features)) v, with the softmax in float32.

    CUDA runs cuDNN's fused kernel where the kernel takes the dtype and the size of the heads. A CPU takes many queries
    head by head and QUERY_BLOCK at a time, which also bounds the memory. Everything else is XLA's.
    """
    branches = {}
    if q.shape[1] > QUERY_BLOCK or q.dtype == jnp.float16:  # of which a CPU lacks the product that XLA's asks for
        branches["cpu"] = attention_in_blocks
    if _fused_attention_exists(q, k, v):
        even = q.shape[1] % 2 == k.shape[1] % 2 == 0
        branches["cuda"] = _fused_attention if even else _fused_forward
    if not branches:
        return jax.nn.dot_product_attention(q, k, v)
    return jax.lax.platform_dependent(q, k, v, **branches, default=jax.nn.dot_product_attention)


def _fused_attention(q, k, v):
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")


@jax.custom_vjp
def _fused_forward(q, k, v):
    """`_fused_attention` with XLA's gradient: JAX refuses cuDNN's for an odd number of queries or keys, as 77."""
    return _fused_attention(q, k, v)


_fused_forward.defvjp(
    lambda q, k, v: jax.vjp(jax.nn.dot_product_attention, q, k, v), lambda gradient, out: gradient(out)
)


def _fused_attention_exists(q, k, v) -> bool:
    """Whether a program with cuDNN's attention of these shapes would run on every CUDA device that it may meet.

    The device of a program is not known while the program is traced. The oldest CUDA device of this process therefore
    decides; without any, the program is for another machine, and its GPU is taken to be the oldest that cuDNN's kernel
    runs on. JAX itself refuses what cuDNN's kernel does not take (NotImplementedError: the size of the heads) and what
    this installation cannot lower (RuntimeError: no cuDNN).
    """
    if q.dtype.name not in FUSED_DTYPES:
        return False
    try:
        capabilities = [float(device.compute_capability) for device in jax.devices("cuda")]
    except RuntimeError:  # no such device here
        capabilities = []
    if min(capabilities, default=OLDEST_FUSED) < OLDEST_FUSED:
        return False
    try:
        jax.eval_shape(_fused_attention, *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)))
    except (NotImplementedError, RuntimeError):
        return False
    return True


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
