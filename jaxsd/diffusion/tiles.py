"""Decoding more latents than fit into memory at once: image by image, and a large image in overlapping tiles."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxsd.diffusion.vae import VAE

TILE = 128  # latents along a side of a tile: 1024 pixels of Stable Diffusion's VAE
OVERLAP = 32  # latents, over which two tiles are blended
AT_ONCE = TILE * TILE  # latents, of one image or of several


def decode_latents(
    vae: VAE, latents: Float[Array, "batch latent_height latent_width channels"]
) -> Float[Array, "batch height width 3"]:
    """`vae.decode`, in parts where there are many latents.

    The result is the same but for rounding where an image has at most AT_ONCE latents. A larger image is decoded in
    tiles. Each tile is normalized and attended to by itself, so the image only comes near that of `vae.decode`.
    """
    batch, height, width, _ = latents.shape
    if batch * height * width <= AT_ONCE:
        return vae.decode(latents)
    whole = height * width <= AT_ONCE
    return jax.lax.map(lambda z: vae.decode(z[None])[0] if whole else decode_tiles(vae, z), latents)


def decode_tiles(
    vae: VAE, latents: Float[Array, "latent_height latent_width channels"]
) -> Float[Array, "height width 3"]:
    """Decode one image in tiles of TILE latents a side, which fade into each other where they overlap."""
    factor, (height, width, channels) = vae.config.factor, latents.shape
    (tops, row_shares), (lefts, column_shares) = shares(height, factor), shares(width, factor)
    size = (row_shares.shape[1] // factor, column_shares.shape[1] // factor)

    def paste(image, index):
        i, j = index // len(lefts), index % len(lefts)
        top, left = tops[i], lefts[j]
        tile = vae.decode(jax.lax.dynamic_slice(latents, (top, left, 0), (*size, channels))[None])[0]
        tile = tile * row_shares[i][:, None, None] * column_shares[j][None, :, None]
        corner = (top * factor, left * factor, 0)
        below = jax.lax.dynamic_slice(image, corner, tile.shape)
        return jax.lax.dynamic_update_slice(image, below + tile, corner), None

    empty = jnp.zeros((height * factor, width * factor, vae.config.out_channels))
    return jax.lax.scan(paste, empty, jnp.arange(len(tops) * len(lefts)))[0]


def shares(side: int, factor: int) -> tuple[jax.Array, jax.Array]:
    """Along one side: where the tiles start (n,), in latents, and their weights at their pixels (n, tile * factor).

    A tile fades in and out linearly over OVERLAP latents. The weights of a pixel sum to one.
    """
    tile = min(side, TILE)
    count = 1 + -(-(side - tile) // (TILE - OVERLAP))
    starts = np.linspace(0, side - tile, count).round().astype(np.int32)
    ramp = np.minimum(np.arange(tile * factor) + 0.5, OVERLAP * factor)
    ramp = np.minimum(ramp, ramp[::-1])
    total = np.zeros(side * factor)
    for start in starts:
        total[start * factor : (start + tile) * factor] += ramp
    fades = [ramp / total[start * factor : (start + tile) * factor] for start in starts]
    return jnp.asarray(starts), jnp.asarray(np.stack(fades), jnp.float32)
