import jax
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def strict_jax():
    """Highest precision, and no silent broadcasting of ranks."""
    with jax.default_matmul_precision("highest"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
