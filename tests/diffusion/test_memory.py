"""What is computed in parts is what would be computed at once."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsd.diffusion import layers, tiles
from jaxsd.diffusion.vae import VAE
from tests.helpers import models


@pytest.mark.parametrize("queries, keys", [(150, 150), (256, 77)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_in_blocks(rng, queries, keys, dtype):
    q, k, v = (jnp.asarray(rng.standard_normal((2, n, 3, 8)), dtype) for n in (queries, keys, keys))
    in_blocks, at_once = jax.jit(layers.attention)(q, k, v), jax.nn.dot_product_attention(q, k, v)
    assert in_blocks.dtype == q.dtype
    np.testing.assert_allclose(in_blocks, at_once, atol=1e-6 if dtype == "float32" else 2e-2)


def test_small_maps_are_convolved_alike(rng, monkeypatch):
    conv = layers.conv(4, 6, 3, dtype=None, rngs=nnx.Rngs(0))
    x = rng.standard_normal((2, 5, 7, 4), np.float32)
    by_product = conv(x)
    monkeypatch.setattr(layers, "SMALL_MAP", 0)
    np.testing.assert_allclose(by_product, conv(x), atol=1e-5)


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


def test_tiles_of_what_looks_at_nothing_around_it(rng, small_tiles):
    """A decoder without normalisation over the picture: tiles must give it exactly, wherever they meet."""
    vae = SimpleNamespace(
        config=SimpleNamespace(factor=4, out_channels=3), decode=lambda z: jnp.repeat(jnp.repeat(z, 4, 1), 4, 2)
    )
    latents = rng.standard_normal((2, 19, 8, 3), np.float32)
    np.testing.assert_allclose(jax.jit(lambda z: tiles.decode_latents(vae, z))(latents), vae.decode(latents), atol=1e-6)


def test_only_large_pictures_are_tiled(rng, small_tiles):
    vae = models.randomised(partial(VAE, models.AUTOENCODER), 1)
    decode = nnx.jit(lambda vae, z: (tiles.decode_latents(vae, z), vae.decode(z)))
    several = rng.standard_normal((3, 4, 16, 4), np.float32)  # one by one
    np.testing.assert_allclose(*decode(vae, several), atol=1e-5)
    tiled, whole = decode(vae, rng.standard_normal((1, 12, 12, 4), np.float32))
    assert tiled.shape == whole.shape and np.abs(tiled - whole).max() > 1e-3
