"""The objectives against a literal transcription in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsd.diffusion.samplers import NoiseSchedule
from jaxsd.objectives import add_noise, cross_entropies, denoising_errors


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize("scale", [1.0, 14.3])
def test_cross_entropies(rng, size, scale):
    a, b = (unit(rng.standard_normal((size, 5))) for _ in range(2))
    expected = 0.0
    for p in (scale * a @ b.T, scale * b @ a.T):
        expected += np.mean([-np.log(np.exp(row[i]) / np.exp(row).sum()) for i, row in enumerate(p)])
    ours = cross_entropies(a.astype(np.float32), b.astype(np.float32), scale)
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)


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

    errors, ratio = denoising_errors(oracle, schedule, latents, None, jax.random.key(0))
    assert errors.shape == (16,) and float(errors.max()) < 1e-4
    assert np.all(np.diff(np.asarray(ratio)) < 0)  # stratified: from little noise to much


def test_noise_keeps_the_variance(rng):
    latents, noise = (jnp.asarray(rng.standard_normal((3, 64, 64, 2)), jnp.float32) for _ in range(2))
    noisy, squared = add_noise(latents, noise, jnp.array([0, 500, 999]), NoiseSchedule())
    np.testing.assert_allclose(noisy.std(axis=(1, 2, 3)), 1, atol=0.03)
    assert squared[0, 0, 0, 0] > 0.99 and squared[2, 0, 0, 0] < 0.01
