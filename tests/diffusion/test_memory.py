"""What is computed in parts is what would be computed at once."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsd.diffusion import tiles
from jaxsd.diffusion.vae import VAE
from tests.helpers import models

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("side", [1, 128, 129, 200, 224, 225, 1000])
def test_tiles_cover_every_pixel_once(side):
    starts, fades = tiles.shares(side, 8)
    total = np.zeros(side * 8)
    for start, fade in zip(starts, fades, strict=True):
        assert 0 <= start <= side - len(fade) // 8 and (np.diff(starts) <= tiles.TILE - tiles.OVERLAP).all()
        total[start * 8 : start * 8 + len(fade)] += fade
    np.testing.assert_allclose(total, 1, atol=1e-6)


@pytest.fixture
def small_tiles(monkeypatch):
    for name, value in (("TILE", 8), ("OVERLAP", 2), ("AT_ONCE", 64)):
        monkeypatch.setattr(tiles, name, value)


class Repeating(VAE):
    """A decoder without normalization over the image, and without parameters."""

    def __init__(self):
        self.config = models.AUTOENCODER

    def decode(self, latents):
        return jnp.repeat(jnp.repeat(latents, 4, 1), 4, 2)


def test_tiles_of_what_looks_at_nothing_around_it(rng, small_tiles):
    """Tiles must give the image exactly, wherever they meet."""
    vae = Repeating()
    latents = jnp.asarray(rng.standard_normal((2, 19, 8, 3), np.float32))
    np.testing.assert_allclose(jax.jit(lambda z: tiles.decode_latents(vae, z))(latents), vae.decode(latents), atol=1e-6)


def test_only_large_pictures_are_tiled(rng, small_tiles):
    vae = models.randomised(partial(VAE, models.AUTOENCODER), 1)
    decode = nnx.jit(lambda vae, z: (tiles.decode_latents(vae, z), vae.decode(z)))
    several = rng.standard_normal((3, 4, 16, 4), np.float32)  # one by one
    np.testing.assert_allclose(*decode(vae, several), atol=1e-5)
    tiled, whole = decode(vae, rng.standard_normal((1, 12, 12, 4), np.float32))
    assert tiled.shape == whole.shape and np.abs(tiled - whole).max() > 1e-3
