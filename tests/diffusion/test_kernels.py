"""The kernels agree with XLA's, and the platform that a program is lowered for chooses among them."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from jaxsd.diffusion import kernels, layers
from jaxsd.diffusion.unet import UNet
from tests.helpers import models


@pytest.mark.parametrize("queries, keys", [(150, 150), (256, 77)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_in_blocks(rng, queries, keys, dtype):
    q, k, v = (jnp.asarray(rng.standard_normal((2, n, 3, 8)), dtype) for n in (queries, keys, keys))
    in_blocks, at_once = jax.jit(kernels.attention)(q, k, v), jax.nn.dot_product_attention(q, k, v)
    assert in_blocks.dtype == q.dtype
    np.testing.assert_allclose(in_blocks, at_once, atol=1e-6 if dtype == "float32" else 2e-2)


def test_small_maps_are_convolved_alike(rng, monkeypatch):
    conv = layers.conv(4, 6, 3, dtype=None, rngs=nnx.Rngs(0))
    x = rng.standard_normal((2, 5, 7, 4), np.float32)
    by_product = conv(x)
    monkeypatch.setattr(kernels, "SMALL_MAP", 0)
    np.testing.assert_allclose(by_product, conv(x), atol=1e-5)


@pytest.fixture
def cudnn(monkeypatch):
    """As with jax[cuda] installed: JAX looks for a GPU when such a program runs, and for cuDNN when it is traced."""
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)


def lowered(function, *shapes, platform, dtype="bfloat16"):
    arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


def summed(function):
    return lambda *arguments: function(*arguments).astype(jnp.float32).sum()


def on_a_mesh(function):
    mesh = Mesh(jax.devices()[:1], ("batch",))
    parts = PartitionSpec("batch")
    return jax.shard_map(function, mesh=mesh, in_specs=parts, out_specs=parts, check_vma=False)


TRANSFORMS = {
    "alone": lambda f: f,
    "grad": lambda f: jax.grad(summed(f), argnums=(0, 1, 2)),
    "remat": lambda f: jax.grad(summed(jax.checkpoint(f))),
    "vmap": lambda f: lambda q, k, v: jax.vmap(f)(q[None], k[None], v[None])[0],
    "shard_map": on_a_mesh,
    "jit": jax.jit,
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_cuda_gets_fused_attention_and_a_cpu_does_not(cudnn, transform):
    function = TRANSFORMS[transform](kernels.attention)
    shapes = ((2, 256, 4, 40), (2, 78, 4, 40), (2, 78, 4, 40))
    assert "__cudnn$fmha" in lowered(function, *shapes, platform="cuda")
    for platform in ("cpu", "tpu"):
        assert "cudnn" not in lowered(function, *shapes, platform=platform)
    assert "while" in lowered(function, *shapes, platform="cpu")  # the blocks
    assert "while" not in lowered(function, *shapes, platform="cuda")


def test_attention_over_an_odd_number_of_keys_can_be_trained_through(cudnn):
    shapes = ((2, 256, 4, 40), (2, 77, 4, 40), (2, 77, 4, 40))
    assert "__cudnn$fmha" in lowered(kernels.attention, *shapes, platform="cuda")
    for transform in ("grad", "remat"):
        assert "cudnn" not in lowered(TRANSFORMS[transform](kernels.attention), *shapes, platform="cuda")


@pytest.mark.parametrize("features, dtype", [(40, "float32"), (512, "bfloat16"), (36, "bfloat16")])
def test_attention_that_no_fused_kernel_takes(cudnn, features, dtype):
    shape = (2, 16, 2, features)
    assert "cudnn" not in lowered(kernels.attention, shape, shape, shape, platform="cuda", dtype=dtype)


def test_without_cudnn_cuda_gets_xlas_attention():
    shape = (2, 256, 2, 40)
    text = lowered(kernels.attention, shape, shape, shape, platform="cuda")
    assert "cudnn" not in text and "while" not in text


class OldGPU:
    compute_capability = "7.5"


def test_a_gpu_older_than_the_fused_kernel(cudnn, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda platform: [OldGPU])
    shape = (2, 256, 2, 40)
    assert "cudnn" not in lowered(kernels.attention, shape, shape, shape, platform="cuda")


@pytest.mark.parametrize(
    "transform", [lambda f: f, lambda f: jax.grad(summed(f)), jax.checkpoint], ids=["plain", "gradient", "remat"]
)
def test_a_small_map_is_a_convolution_on_cuda_and_a_product_on_a_cpu(transform):
    convolve = partial(kernels.convolve, strides=(1, 1), padding=((1, 1), (1, 1)), **DIMENSIONS)
    shapes = ((2, 4, 4, 8), (3, 3, 8, 8))
    assert "stablehlo.convolution" in lowered(transform(convolve), *shapes, platform="cuda", dtype="float32")
    on_cpu = lowered(transform(convolve), *shapes, platform="cpu", dtype="float32")
    assert "stablehlo.convolution" not in on_cpu and "stablehlo.dot_general" in on_cpu


DIMENSIONS = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}


def test_a_network_is_exported_for_a_gpu_that_is_not_here(cudnn):
    config = dataclasses.replace(models.UNET, attention_head_dim=2)  # heads of 8 and 16
    graph, params = nnx.split(models.randomised(partial(UNet, config, dtype=jnp.bfloat16), 0))
    half = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), params)
    inputs = [jax.ShapeDtypeStruct(shape, "float32") for shape in ((1, 8, 8, 4), (1,), (1, 77, 24))]
    fused = [jax.export.DisabledSafetyCheck.custom_call("__cudnn$fmhaSoftmax")]  # which JAX does not promise to keep
    with jax.default_matmul_precision("default"):
        exported = jax.export.export(
            jax.jit(lambda params, *inputs: nnx.merge(graph, params)(*inputs)),
            platforms=["cuda"],
            disabled_checks=fused,
        )(half, *inputs)
    assert "__cudnn$fmhaSoftmax" in exported.mlir_module()


def test_outside_of_a_compiled_program(rng):
    q = jnp.asarray(rng.standard_normal((1, 200, 2, 8), np.float32))
    np.testing.assert_allclose(kernels.attention(q, q, q), jax.jit(kernels.attention)(q, q, q), atol=1e-6)
