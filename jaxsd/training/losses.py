"""Losses: contrastive alignment with CLIP's embeddings, and denoising through the U-Net."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import logsumexp
from jaxtyping import Array, Bool, Float, Int

from jaxsd.clip.towers import normalise
from jaxsd.diffusion.samplers import NoiseSchedule

PyTree = Any
POOLINGS = {"mean": lambda rows: rows.mean(axis=1), "first": lambda rows: rows[:, 0], "last": lambda rows: rows[:, -1]}
BLOCK = 1024  # columns of similarities at a time
NOTHING = -1e30  # the logarithm of no probability; finite, so that gradients of what is left out are 0 and not NaN


def pooled(
    rows: Float[Array, "batch tokens features"], projection: Float[Array, "features projection"], pooling: str = "mean"
) -> Float[Array, "batch projection"]:
    """An encoder's output as one unit-norm vector: its pooled row (mean, first or last) through CLIP's text projection.

    The paper (arXiv 2509.09717) names neither the row nor the mean.
    """
    return normalise(jnp.matmul(POOLINGS[pooling](rows), projection, precision="highest"))


def cross_entropies(
    rows: Float[Array, "batch features"],
    columns: Float[Array, "batch features"],
    scale: float | jax.Array = 1.0,
    valid: Bool[Array, " batch"] | None = None,
    block: int = BLOCK,
) -> Float[Array, ""]:
    """CE(P) + CE(P^T) of P = scale * rows columns^T against the identity: TCEOCS of the paper (arXiv 2509.09717).

    Rows of both are unit-norm float32; those that are not `valid` count for nothing. Chance level is 2 ln(batch).
    P is computed `block` columns at a time, forwards and backwards, so memory grows linearly with the batch.
    """
    size = len(rows)
    valid = jnp.ones(size, bool) if valid is None else valid
    count = -(-size // block)
    width = -(-size // count)

    def in_blocks(x):
        return jnp.pad(x, [(0, count * width - size)] + [(0, 0)] * (x.ndim - 1)).reshape(count, width, *x.shape[1:])

    @jax.checkpoint
    def add_block(row_sums, part):
        columns, counted = part
        logits = scale * jnp.matmul(rows, columns.T, precision="highest")
        column_sums = logsumexp(jnp.where(valid[:, None], logits, NOTHING), axis=0)
        return jnp.logaddexp(row_sums, logsumexp(jnp.where(counted[None], logits, NOTHING), axis=1)), column_sums

    row_sums, column_sums = jax.lax.scan(add_block, jnp.full(size, NOTHING), (in_blocks(columns), in_blocks(valid)))
    matches = scale * jnp.sum(rows * columns, axis=1)
    return jnp.mean(row_sums + column_sums.reshape(-1)[:size] - 2 * matches, where=valid)


def add_noise(latents, noise, timesteps, schedule: NoiseSchedule):
    """Noisy latents at integer `timesteps` (batch,), and alpha^2 there, (batch, 1, 1, 1)."""
    squared = jnp.asarray(schedule.alphas_cumprod, jnp.float32)[timesteps][:, None, None, None]
    return jnp.sqrt(squared) * latents + jnp.sqrt(1 - squared) * noise, squared


def draw_noise(
    key: jax.Array, latents: Float[Array, "batch height width channels"], schedule: NoiseSchedule
) -> tuple[Int[Array, " batch"], Float[Array, "batch height width channels"]]:
    """Random timesteps, stratified over the batch so that its mean varies less, and standard normal noise."""
    time_key, noise_key = jax.random.split(key)
    batch, total = len(latents), schedule.num_train_timesteps
    places = (jnp.arange(batch) + jax.random.uniform(time_key, (batch,))) / batch
    timesteps = jnp.minimum((places * total).astype(jnp.int32), total - 1)
    return timesteps, jax.random.normal(noise_key, latents.shape)


def denoising_errors(
    unet,
    schedule: NoiseSchedule,
    latents: Float[Array, "batch height width channels"],
    context: Float[Array, "batch tokens features"],
    key: jax.Array,
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """Mean squared error of the predicted noise per sample at a random timestep, and its signal-to-noise ratio there.

    Ho et al., arXiv 2006.11239, eq. 14.
    """
    return errors_at(unet, schedule, latents, context, *draw_noise(key, latents, schedule))


def errors_at(unet, schedule, latents, context, timesteps, noise):
    """What `denoising_errors` gives, at these timesteps (batch,) and with this noise, of the latents' shape."""
    noisy, squared = add_noise(latents, noise, timesteps, schedule)
    predicted = unet(noisy, timesteps, context)
    target = noise
    if schedule.prediction_type == "v_prediction":
        target = jnp.sqrt(squared) * noise - jnp.sqrt(1 - squared) * latents
    errors = jnp.mean((predicted - target) ** 2, axis=(1, 2, 3))
    return errors, (squared / (1 - squared))[:, 0, 0, 0]


def value_and_gradient(encode: Callable, combine: Callable, parts: int = 1) -> Callable:
    """`gradient(params, batch, key) -> ((loss, metrics), gradients)` of a loss that couples all rows of a batch.

    `encode(params, rows, key) -> outputs`, row by row, is where the memory goes: it sees the batch in `parts`.
    `combine(params, outputs, batch) -> (loss, metrics)` sees the outputs of all rows. The result is that of the whole
    batch at once, however many parts (GradCache, Gao et al., arXiv 2101.06983): the outputs are computed without
    gradients, then the loss's gradient with respect to them, then every part's vector-Jacobian product.
    Of every array in `batch`, and of the outputs, the first axis must be a multiple of `parts`.
    """
    if parts == 1:
        return jax.value_and_grad(
            lambda params, batch, key: combine(params, encode(params, batch, key), batch), has_aux=True
        )

    # Part p has rows p, p + parts, ...: a sharded batch stays spread over all devices, and the first rows of the batch
    # are the first rows of the parts.
    def split(tree):
        return jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), tree)

    def join(tree):
        return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)

    def gradient(params, batch, key):
        pieces, keys = split(batch), jax.random.split(key, parts)
        outputs = join(jax.lax.map(lambda piece: encode(params, *piece), (pieces, keys)))
        result, (direct, wanted) = jax.value_and_grad(combine, argnums=(0, 1), has_aux=True)(params, outputs, batch)

        def add_piece(total, piece):
            rows, key, cotangents = piece
            _, pull = jax.vjp(lambda params: encode(params, rows, key), params)
            return jax.tree.map(jnp.add, total, *pull(cotangents)), None

        return result, jax.lax.scan(add_piece, direct, (pieces, keys, split(wanted)))[0]

    return gradient
