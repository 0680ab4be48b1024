"""The frozen U-Net's error on a split's latents under a conditioning."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxsd.diffusion.denoising import denoising_errors_at
from jaxsd.diffusion.pipeline import StableDiffusion

MOST_POSITIONS = 4 * 64 * 64  # positions of latents that go through the U-Net at a time


@partial(nnx.jit, static_argnames="schedule")
def _denoising_errors(unet, schedule, *batch):
    return denoising_errors_at(unet, schedule, *batch)[0]


class FrozenUNet:
    """The denoising error of each clip, at a timestep and with a noise of its own, the same for every conditioning.

    The timesteps are stratified over the split: they cover all levels of noise evenly.
    """

    def __init__(self, pipe: StableDiffusion, latents: Float[np.ndarray, "M height width channels"]):
        self.pipe, self.latents = pipe, latents
        size = len(latents)
        rng = np.random.default_rng(0)
        shares = (rng.permutation(size) + rng.random(size)) / size
        self.timesteps = (shares * pipe.schedule.num_train_timesteps).astype(np.int32)

    def errors(
        self, indices: Int[np.ndarray, " batch"], embeddings: Float[Array, "batch 77 width"]
    ) -> Float[Array, " batch"]:
        """The mean squared error of the predicted noise for each of the clips with these indices."""
        latents = self.latents[indices].astype(np.float32)
        noise = jax.random.normal(jax.random.key(int(indices[0])), latents.shape)
        batch = latents, embeddings, self.timesteps[indices], noise
        size = max(1, MOST_POSITIONS // math.prod(latents.shape[1:3]))
        parts = [[array[first : first + size] for array in batch] for first in range(0, len(indices), size)]
        return jnp.concatenate([_denoising_errors(self.pipe.unet, self.pipe.schedule, *part) for part in parts])
