"""The convolutions agree with XLA's, and the platform that a program is lowered for chooses among them."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsd.diffusion import kernels, layers
from jaxsd.diffusion.unet import UNet
from tests.helpers import models


def test_small_maps_are_convolved_alike(rng, monkeypatch):
    conv = layers.conv(4, 6, 3, dtype=None, rngs=nnx.Rngs(0))
    x = rng.standard_normal((2, 5, 7, 4), np.float32)
    by_product = conv(x)
    monkeypatch.setattr(kernels, "SMALL_MAP", 0)
    np.testing.assert_allclose(by_product, conv(x), atol=1e-5)


def lowered(function, *shapes, platform, dtype="bfloat16"):
    arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


def summed(function):
    return lambda *arguments: function(*arguments).astype(jnp.float32).sum()


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
