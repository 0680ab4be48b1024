"""The denoising loss: how well a U-Net predicts the noise in latents."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxsd.diffusion.samplers import NoiseSchedule


def add_noise(latents, noise, timesteps, schedule: NoiseSchedule):
    """Noisy latents at integer `timesteps` (batch,), and alpha^2 at those timesteps, (batch, 1, 1, 1)."""
    squared = jnp.asarray(schedule.alphas_cumprod, jnp.float32)[timesteps][:, None, None, None]
    return jnp.sqrt(squared) * latents + jnp.sqrt(1 - squared) * noise, squared


def draw_noise(
    key: jax.Array, latents: Float[Array, "batch height width channels"], schedule: NoiseSchedule
) -> tuple[Int[Array, " batch"], Float[Array, "batch height width channels"]]:
    """Random timesteps, stratified over the batch so that its mean varies less, and standard normal noise."""
    time_key, noise_key = jax.random.split(key)
    batch, total = len(latents), schedule.num_train_timesteps
    points = (jnp.arange(batch) + jax.random.uniform(time_key, (batch,))) / batch
    timesteps = jnp.minimum((points * total).astype(jnp.int32), total - 1)
    return timesteps, jax.random.normal(noise_key, latents.shape)


def denoising_errors(
    unet,
    schedule: NoiseSchedule,
    latents: Float[Array, "batch height width channels"],
    context: Float[Array, "batch tokens features"],
    key: jax.Array,
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """Mean squared error of the predicted noise per sample at a random timestep, and the signal-to-noise ratio at it.

    Ho et al., arXiv 2006.11239, eq. 14.
    """
    return denoising_errors_at(unet, schedule, latents, context, *draw_noise(key, latents, schedule))


def denoising_errors_at(unet, schedule, latents, context, timesteps, noise):
    """`denoising_errors` at these timesteps (batch,) and with this noise, which has the latents' shape."""
    noisy, squared = add_noise(latents, noise, timesteps, schedule)
    predicted = unet(noisy, timesteps, context)
    target = noise
    if schedule.prediction_type == "v_prediction":
        target = jnp.sqrt(squared) * noise - jnp.sqrt(1 - squared) * latents
    errors = jnp.mean((predicted - target) ** 2, axis=(1, 2, 3))
    return errors, (squared / (1 - squared))[:, 0, 0, 0]
