"""Muon takes kernels as matrices and leaves the rest to Adam."""

import jax
import numpy as np
import optax
import pytest

from jaxsd.training.optimizers import muon

RATE = 0.01


@pytest.mark.parametrize("shape", [(24, 8), (3, 8, 8), (3, 3, 4, 8)])  # linear, and convolutions in one and two axes
def test_a_kernels_update_is_orthogonal_and_of_adams_size(rng, shape):
    params = {"kernel": np.zeros(shape, np.float32)}
    gradients = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), params)
    updates, _ = muon(RATE).update(gradients, muon(RATE).init(params), params)
    matrix = np.asarray(updates["kernel"]).reshape(-1, shape[-1])
    singular = np.linalg.svd(matrix, compute_uv=False)
    assert singular.max() < 2 * singular.min()  # those of the gradient differ by more
    assert np.sqrt((matrix**2).mean()) == pytest.approx(0.2 * RATE, rel=0.3)


def test_all_else_gets_adams_update(rng):
    params = {"norm": {"scale": np.ones(8, np.float32)}, "pos_embed": np.zeros((7, 8), np.float32)}
    gradients = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), params)
    adam = optax.adam(RATE, b2=0.99, nesterov=True)
    updates, _ = muon(RATE).update(gradients, muon(RATE).init(params), params)
    expected, _ = adam.update(gradients, adam.init(params), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), updates, expected)
