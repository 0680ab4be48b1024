"""The objectives against a literal transcription in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsd.clip.pooling import pool_embeddings
from jaxsd.diffusion.denoising import add_noise, denoising_errors
from jaxsd.diffusion.samplers import NoiseSchedule
from jaxsd.training.grad_cache import value_and_gradient
from jaxsd.training.losses import cross_entropies

pytestmark = pytest.mark.slow


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def literal(a, b, scale=1.0):
    """CE(P) + CE(P^T) of arXiv 2509.09717, eqs. 1 and 2, in float64."""
    total = 0.0
    for p in (scale * a @ b.T, scale * b @ a.T):
        total += np.mean([-np.log(np.exp(row[i]) / np.exp(row).sum()) for i, row in enumerate(p)])
    return total


@pytest.mark.parametrize(("size", "block"), [(1, 4), (7, 7), (7, 3), (100, 32)])
@pytest.mark.parametrize("scale", [1.0, 14.3])
def test_cross_entropies(rng, size, block, scale):
    a, b = (unit(rng.standard_normal((size, 5))) for _ in range(2))
    ours = cross_entropies(a.astype(np.float32), b.astype(np.float32), scale, block=block)
    np.testing.assert_allclose(ours, literal(a, b, scale), rtol=1e-6, atol=1e-6)


def test_in_blocks_and_with_rows_that_do_not_count_the_gradients_are_the_same(rng):
    a, b = (unit(rng.standard_normal((13, 5))).astype(np.float32) for _ in range(2))
    more = [np.concatenate([x, x[:6]]) for x in (a, b)]
    valid = np.arange(19) < 13
    of_all = jax.value_and_grad(cross_entropies, argnums=(0, 1, 2))
    value, (rows, columns, scale) = of_all(a, b, 10.0)
    np.testing.assert_allclose(value, literal(a.astype(float), b.astype(float), 10.0), rtol=1e-6)
    padded, gradients = of_all(*more, 10.0, valid, 4)
    np.testing.assert_allclose(padded, value, rtol=1e-6)
    for got, expected in zip(gradients, (rows, columns, scale), strict=True):
        expected = np.concatenate([expected, np.zeros((6, 5))]) if expected.ndim else expected
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


def test_memory_grows_linearly():
    def needed(size):
        rows = jax.ShapeDtypeStruct((size, 64), jnp.float32)
        compiled = jax.jit(jax.grad(cross_entropies, argnums=(0, 1))).lower(rows, rows).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert needed(16_384) < 2.2 * needed(8_192)  # all similarities at once: 4 times


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_pooling(rng, pooling):
    rows, projection = rng.standard_normal((3, 77, 6)), rng.standard_normal((6, 4))
    row = {"mean": rows.mean(axis=1), "first": rows[:, 0], "last": rows[:, 76]}[pooling]
    ours = pool_embeddings(jnp.asarray(rows, jnp.float32), jnp.asarray(projection, jnp.float32), pooling)
    np.testing.assert_allclose(ours, unit(row @ projection), atol=1e-6)


def test_a_batch_in_parts_has_the_gradients_of_the_whole(rng):
    """Though every row's loss depends on all the others, and only the first rows have a second one."""
    w = jnp.asarray(rng.standard_normal((5, 3)), jnp.float32)
    batch = {"x": rng.standard_normal((12, 5)), "y": unit(rng.standard_normal((12, 3))), "z": rng.standard_normal(8)}
    batch = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), batch)

    def encode(params, rows, key):
        vector = jnp.tanh(rows["x"] @ params["w"])
        return {"vector": vector, "error": (vector[: len(rows["z"]), 0] - rows["z"]) ** 2}

    def combine(params, outputs, batch):
        loss = cross_entropies(outputs["vector"], batch["y"], params["scale"])
        return loss + outputs["error"].mean(), {"contrastive": loss}

    params = {"w": w, "scale": jnp.float32(3.0)}
    whole, *parts = (value_and_gradient(encode, combine, n)(params, batch, jax.random.key(0)) for n in (1, 2, 4))
    for part in parts:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), part, whole)


def test_constant_targets_give_chance(rng):
    a = unit(rng.standard_normal((50, 8))).astype(np.float32)
    b = np.repeat(a[:1], 50, axis=0)
    rows_only = 2 * np.log(50)
    assert cross_entropies(a * 0, b) == pytest.approx(rows_only, rel=1e-6)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_network_that_knows_the_noise_has_no_denoising_error(rng, prediction_type):
    schedule = NoiseSchedule(prediction_type=prediction_type)
    latents = jnp.asarray(rng.standard_normal((16, 4, 4, 2)), jnp.float32)

    def oracle(noisy, timesteps, context):
        squared = jnp.asarray(schedule.alphas_cumprod, jnp.float32)[timesteps][:, None, None, None]
        alpha, sigma = jnp.sqrt(squared), jnp.sqrt(1 - squared)
        noise = (noisy - alpha * latents) / sigma
        return noise if prediction_type == "epsilon" else alpha * noise - sigma * latents

    errors, ratio = denoising_errors(oracle, schedule, latents, jnp.zeros((16, 1, 1)), jax.random.key(0))
    assert errors.shape == (16,) and float(errors.max()) < 1e-4
    assert np.all(np.diff(np.asarray(ratio)) < 0)  # stratified: from little noise to much


def test_noise_keeps_the_variance(rng):
    latents, noise = (jnp.asarray(rng.standard_normal((3, 64, 64, 2)), jnp.float32) for _ in range(2))
    noisy, squared = add_noise(latents, noise, jnp.array([0, 500, 999]), NoiseSchedule())
    np.testing.assert_allclose(noisy.std(axis=(1, 2, 3)), 1, atol=0.03)
    assert squared[0, 0, 0, 0] > 0.99 and squared[2, 0, 0, 0] < 0.01
