"""The kernel of attention with dropout, interpreted, computes what XLA's operations compute, with the same weights."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from encoders.dropout_attention import _backward_kernel, _forward_kernel, attention_with_dropout, call_kernel
from tests.helpers.processes import environment_of_devices

WORDS = jnp.asarray([123_456_789, 987_654_321], jnp.uint32)
SIZES = {"as published": (80, 77, 64), "odd": (13, 13, 24)}  # positions, those that count, features of a head


def draw(rng, time, features, dtype="float32"):
    return [jnp.asarray(rng.standard_normal((2, time, 3, features)), dtype) for _ in range(4)]


@pytest.mark.parametrize("size", SIZES)
def test_the_kernels_agree_with_plain_operations(rng, size):
    time, length, features = SIZES[size]
    *qkv, gradient = draw(rng, time, features)

    @jax.jit
    def plain(*qkv):
        outputs, pull = jax.vjp(lambda *qkv: attention_with_dropout(*qkv, WORDS, length, 0.1), *qkv)
        return outputs, *pull(gradient)

    @jax.jit
    def kernel(*qkv):
        forward, backward = (partial(way, length, 0.1) for way in (_forward_kernel, _backward_kernel))
        outputs = call_kernel(forward, 1, WORDS, *qkv, interpret=True)
        return outputs, *call_kernel(backward, 3, WORDS, *qkv, gradient, interpret=True)

    for found, expected in zip(kernel(*qkv), plain(*qkv), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_a_tenth_of_the_weights_is_dropped_and_the_others_are_scaled(rng):
    """With the identity as values, what comes out is the weights."""
    q, k, *_ = draw(rng, 16, 16)
    identity = jnp.broadcast_to(jnp.eye(16)[None, :, None], q.shape)
    attend = jax.jit(attention_with_dropout, static_argnums=(4, 5))
    weights, kept = (attend(q, k, identity, WORDS, 13, rate) for rate in (0.1, 0.0))
    np.testing.assert_array_equal(weights[..., 13:], 0)
    dropped = weights[..., :13] == 0
    assert 0.07 < dropped.mean() < 0.13
    np.testing.assert_allclose(weights[..., :13], np.where(dropped, 0, kept[..., :13] / 0.9), rtol=1e-5)
    np.testing.assert_allclose(kept.sum(-1), 1, rtol=1e-5)
    other = attend(q, k, identity, WORDS + 1, 13, 0.1)
    assert 0.1 < ((other[..., :13] == 0) ^ dropped).mean() < 0.26


def loss(q, k, v):
    return attention_with_dropout(q, k, v, WORDS, 77, 0.1).astype(jnp.float32).sum()


TRANSFORMS = {
    "grad": jax.grad,
    "remat": lambda f: jax.grad(jax.checkpoint(f)),
    "vmap": lambda f: lambda *qkv: jax.vmap(jax.grad(f))(*(x[None] for x in qkv)),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_cuda_gets_the_kernels_and_a_cpu_does_not(transform):
    def lowered(platform, dtype="bfloat16"):
        qkv = [jax.ShapeDtypeStruct((2, 80, 3, 64), dtype)] * 3
        return jax.jit(TRANSFORMS[transform](loss)).trace(*qkv).lower(lowering_platforms=(platform,)).as_text()

    assert "attention_backward_kernel" in lowered("cuda")
    for platform in ("cpu", "tpu"):
        assert "triton" not in lowered(platform)
    assert "triton" not in lowered("cuda", "float32")


ON_TWO_DEVICES = """
from functools import partial
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from encoders.dropout_attention import _forward_kernel, attention_with_dropout, call_kernel

mesh = Mesh(jax.devices(), ("batch",))
qkv = [jnp.asarray(np.random.default_rng(0).standard_normal((4, 13, 3, 16)), jnp.float32) for _ in range(3)]
words = jnp.arange(2, dtype=jnp.uint32)
run = jax.jit(lambda *qkv: call_kernel(partial(_forward_kernel, 13, 0.1), 1, words, *qkv, interpret=True))
spread = jax.device_put(qkv, NamedSharding(mesh, PartitionSpec("batch")))
assert "all-gather" not in run.lower(*spread).compile().as_text()
np.testing.assert_allclose(run(*spread), run(*qkv), atol=1e-6)

with jax.set_mesh(jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Explicit,))):
    explicit = jax.device_put([x.astype("bfloat16") for x in qkv], PartitionSpec("batch"))
    attended = jax.jit(attention_with_dropout, static_argnums=(4, 5))(*explicit, words, 13, 0.1)
np.testing.assert_allclose(attended.astype("float32"), run(*qkv), atol=0.05)
"""


@pytest.mark.long
def test_devices_share_a_batch_without_an_exchange():
    subprocess.run(
        [sys.executable, "-c", ON_TWO_DEVICES], check=True, env=environment_of_devices(2), cwd=Path(__file__).parents[2]
    )
