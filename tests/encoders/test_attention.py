"""Attention's kernels agree with XLA's, and the platform that a program is lowered for chooses among them."""

from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

import encoders
from encoders import attention as kernels
from encoders.attention import attention
from encoders.layers import abstract
from jaxsd.clip.towers import TextModel, VisionConfig, VisionModel
from jaxsd.diffusion.loading import SD15_TEXT, SD15_UNET, SD15_VAE
from jaxsd.diffusion.unet import UNet
from jaxsd.diffusion.vae import VAE


@pytest.mark.parametrize("queries, keys", [(150, 150), (256, 77)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_in_blocks(rng, queries, keys, dtype):
    q, k, v = (jnp.asarray(rng.standard_normal((2, n, 3, 8)), dtype) for n in (queries, keys, keys))
    in_blocks, at_once = jax.jit(attention)(q, k, v), jax.nn.dot_product_attention(q, k, v)
    assert in_blocks.dtype == q.dtype
    np.testing.assert_allclose(in_blocks, at_once, atol=1e-6 if dtype == "float32" else 2e-2)


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
    function = TRANSFORMS[transform](attention)
    shapes = ((2, 256, 4, 40), (2, 78, 4, 40), (2, 78, 4, 40))
    assert "__cudnn$fmha" in lowered(function, *shapes, platform="cuda")
    for platform in ("cpu", "tpu"):
        assert "cudnn" not in lowered(function, *shapes, platform=platform)
    assert "while" in lowered(function, *shapes, platform="cpu")  # the blocks
    assert "while" not in lowered(function, *shapes, platform="cuda")


@pytest.mark.parametrize("transform", ["alone", "grad", "remat"])
def test_attention_over_an_odd_number_of_keys_is_fused_and_can_be_trained_through(cudnn, transform):
    shapes = ((2, 256, 4, 40), (2, 77, 4, 40), (2, 77, 4, 40))
    assert "__cudnn$fmha" in lowered(TRANSFORMS[transform](attention), *shapes, platform="cuda")


@pytest.mark.parametrize("causal", [False, True])
def test_padded_positions_are_not_seen(rng, causal):
    q, k, v = (jnp.asarray(rng.standard_normal((2, 13, 3, 8)), jnp.float32) for _ in range(3))
    padded = [kernels.pad_positions(x) for x in (q, k, v)]
    assert padded[0].shape == (2, 16, 3, 8)
    expected = attention(q, k, v, causal=causal)
    np.testing.assert_allclose(attention(*padded, causal=causal, length=13)[:, :13], expected, atol=1e-6)
    # What the fused kernel is given where it is differentiated, computed by XLA's attention.
    plain = partial(kernels._plain_attention, implementation=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_plain_attention", lambda *args, implementation, **options: plain(*args, **options))
        np.testing.assert_allclose(kernels._padded_fused_attention(causal, None, q, k, v), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_encoders_agree_with_their_float32(rng, dtype):
    """Their 77 positions are padded to 80."""
    clips = rng.integers(-9000, 9000, (2, 16_000)).astype(np.int16)
    found, expected = (
        nnx.jit(lambda encoder: encoder(clips))(
            encoders.create("deepseek", width=32, depth=1, heads=4, mlp=48, dtype=kind, rngs=nnx.Rngs(0))
        )
        for kind in (dtype, "float32")
    )
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=0.05)


# Of attention: how many of a network's are cuDNN's before Hopper, and from it on. Heads of 160 need Hopper, and one of
# 512 (the VAE's) has no fused kernel.
VISION = VisionConfig(1024, 4096, 24, 16, patch_size=14)
NETWORKS = {
    "U-Net at 512x512": (partial(UNet, SD15_UNET), "__call__", ((2, 64, 64, 4), (2,), (2, 77, 768)), 20, 32),
    "VAE's encoder": (partial(VAE, SD15_VAE), "encode", ((1, 64, 64, 3),), 0, 0),
    "VAE's decoder": (partial(VAE, SD15_VAE), "decode", ((1, 8, 8, 4),), 0, 0),
    "text tower": (partial(TextModel, SD15_TEXT), "__call__", ((2, 77),), 12, 12),
    "vision tower": (partial(VisionModel, VISION), "__call__", ((2, 224, 224, 3),), 24, 24),
    **{
        name: (partial(encoders.create, name), "__call__", ((2, 16_000),), layers, layers)
        for name, layers in (("chatgpt", 4), ("deepseek", 12), ("gemini", 8), ("grok", 12))
    },
}


ODD = {"U-Net at 520x328": (partial(UNet, SD15_UNET), "__call__", ((2, 65, 41, 4), (2,), (2, 77, 768)), 20, 32)}
CASES = [
    *((name, "bfloat16", False) for name in NETWORKS if name not in ("U-Net at 512x512", "vision tower")),
    *(
        pytest.param(name, "bfloat16", hopper, marks=pytest.mark.long)
        for name, hopper in (("U-Net at 512x512", False), ("U-Net at 512x512", True), ("vision tower", False))
    ),
    ("U-Net at 520x328", "float16", True),
]


@pytest.mark.slow
@pytest.mark.parametrize("name, dtype, hopper", CASES)
def test_every_attention_of_a_published_size_can_be_sampled_and_trained(cudnn, monkeypatch, name, dtype, hopper):
    """JAX refuses, while a program is traced, what the fused kernel does not take; nothing is compiled here."""
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(
        fused_attention_stablehlo, "check_compute_capability", lambda least: float(least) <= (9.0 if hopper else 8.0)
    )
    make, method, shapes, *fused = (NETWORKS | ODD)[name]
    graph, params = nnx.split(abstract(partial(make, dtype=jnp.dtype(dtype))))
    kind = jnp.int32 if name == "text tower" else jnp.float32

    def total(params):
        outputs = getattr(nnx.merge(graph, params), method)(*(jnp.zeros(shape, kind) for shape in shapes))
        return sum(x.astype(jnp.float32).sum() for x in jax.tree.leaves(outputs))

    forward, backward = (count_cudnn(jax.make_jaxpr(f)(params).jaxpr) for f in (total, jax.grad(total)))
    assert forward == {"dot_product_attention_fwd": fused[hopper]} if fused[hopper] else not forward
    assert backward.get("dot_product_attention_bwd", 0) == fused[hopper]


def count_cudnn(jaxpr) -> dict[str, int]:
    """How often the primitives of cuDNN's attention occur."""
    counts = Counter()
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if "dot_product_attention" in name:
            counts[name.replace("_wrapper", "")] += 1
            continue
        for part in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(part, "eqns"):
                counts += count_cudnn(getattr(part, "jaxpr", part))
    return counts


@pytest.mark.parametrize("features, dtype", [(40, "float32"), (512, "bfloat16"), (36, "bfloat16")])
def test_attention_that_no_fused_kernel_takes(cudnn, features, dtype):
    shape = (2, 16, 2, features)
    assert "cudnn" not in lowered(attention, shape, shape, shape, platform="cuda", dtype=dtype)


def test_without_cudnn_cuda_gets_xlas_attention():
    shape = (2, 256, 2, 40)
    text = lowered(attention, shape, shape, shape, platform="cuda")
    assert "cudnn" not in text and "while" not in text


class OldGPU:
    compute_capability = "7.5"


def test_a_gpu_older_than_the_fused_kernel(cudnn, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda platform: [OldGPU])
    shape = (2, 256, 2, 40)
    assert "cudnn" not in lowered(attention, shape, shape, shape, platform="cuda")


def test_outside_of_a_compiled_program(rng):
    q = jnp.asarray(rng.standard_normal((1, 200, 2, 8), np.float32))
    np.testing.assert_allclose(attention(q, q, q), jax.jit(attention)(q, q, q), atol=1e-6)
