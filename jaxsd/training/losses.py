"""Losses of training: contrastive alignment with CLIP, the caption's hidden states, and denoising through the U-Net.

A loss is a class in LOSSES. Training computes each loss whose weight in the config is above 0, and minimizes the
weighted sum. A loss names the columns of the data and the frozen models that it needs, and is computed in two parts:
`encode` for every example, where the memory goes, and `combine` over the whole batch.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn import logsumexp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, PyTree

from encoders.registry import takes_rngs
from jaxsd.clip.pooling import pool_embeddings
from jaxsd.config import LoRAConfig, TrainConfig
from jaxsd.diffusion.denoising import denoising_errors_at, draw_noise
from jaxsd.runtime.progress import counted
from jaxsd.runtime.sharding import batch_sharding, replicated_sharding
from jaxsd.training.frozen_models import FrozenModels
from jaxsd.training.grad_cache import value_and_gradient

SIMILARITY_BLOCK = 1024  # columns of similarities that are computed at a time
LOG_ZERO = -1e30  # the logarithm of no probability; finite, so that gradients of what is left out are 0 and not NaN
INITIAL_SCALE = 1 / 0.07  # CLIP's initial inverse temperature
LARGEST_SCALE = 100.0

Batch = dict[str, jax.Array]


class Loss(ABC):
    """One term of the training objective."""

    columns: tuple[str, ...]  # of the data set, beside "audio"
    models: tuple[str, ...]  # the attributes of FrozenModels that the methods use

    def __init__(self, config: TrainConfig, mesh: Mesh | None = None):
        """Take what the loss needs of the config. Raises ValueError where that cannot be trained.

        `mesh` holds the devices that the batch is spread over, by default all devices of the job.
        """
        self.config, self.mesh = config, mesh

    def init_params(self) -> dict[str, jax.Array]:
        """The parameters that train beside the encoder's, by name."""
        return {}

    def draw(self, models: FrozenModels, batch: Batch, key: jax.Array) -> Batch:
        """Columns that replace or join those of the batch in a step, such as noise; every loss gets the same `key`."""
        return {}

    @abstractmethod
    def encode(self, models: FrozenModels, hidden_states: Float[Array, "batch 77 width"], examples: Batch) -> PyTree:
        """What `combine` needs of every example; each output depends on its own example alone."""

    @abstractmethod
    def combine(
        self, models: FrozenModels, params: dict[str, PyTree], outputs: PyTree, batch: Batch
    ) -> Float[Array, ""]:
        """The loss of the whole batch. Examples that are not batch["valid"] must not count."""


class ContrastiveLoss(Loss):
    """Cross-entropies between the pooled embeddings and CLIP's of captions and images (arXiv 2509.09717, eq. 2)."""

    columns = ("text", "image")

    def __init__(self, config: TrainConfig, mesh: Mesh | None = None):
        super().__init__(config, mesh)
        self.models = ("projection", "bos") if config.text_pooling == "bos" else ("projection",)

    def init_params(self) -> dict[str, jax.Array]:
        return {"log_scale": jnp.float32(math.log(INITIAL_SCALE))} if self.config.learned_temperature else {}

    def encode(self, models, hidden_states, examples):
        return pool_embeddings(hidden_states, models.projection[...], self.config.audio_pooling)

    def combine(self, models, params, outputs, batch):
        # Whole on every device, so that each device compares its own examples with all of these.
        text, image = (
            jax.lax.with_sharding_constraint(batch[name].astype(jnp.float32), replicated_sharding(self.mesh))
            for name in self.columns
        )
        if self.config.text_pooling == "bos":
            text = jnp.broadcast_to(models.bos[...], text.shape)
        scale = jnp.minimum(jnp.exp(params["log_scale"]), LARGEST_SCALE) if self.config.learned_temperature else 1.0
        compare = partial(cross_entropies, outputs, scale=scale, valid=batch["valid"])
        return (compare(text) + compare(image)) / 6


class SequenceLoss(Loss):
    """The mean squared error to the caption's hidden states.

    All 77 of them count, for the U-Net attends to those behind the end of the text as well.
    """

    columns = ("tokens",)
    models = ("text_model",)

    def encode(self, models, hidden_states, examples):
        return jnp.mean((hidden_states - models.text_model(examples["tokens"]).hidden_states) ** 2, axis=(1, 2))

    def combine(self, models, params, outputs, batch):
        return jnp.mean(outputs, where=batch["valid"])


class DenoisingLoss(Loss):
    """The frozen U-Net's denoising loss of the paired image, conditioned on the audio, of the first `denoise_batch`."""

    columns = ("latents",)
    models = ("unet", "schedule")
    config: TrainConfig | LoRAConfig

    def __init__(self, config: TrainConfig | LoRAConfig, mesh: Mesh | None = None):
        self.config, self.mesh = config, mesh
        self.count = config.denoise_batch or config.batch_size
        if self.count % config.accumulate:
            raise ValueError(
                f"accumulate is {config.accumulate}; it must divide the {counted(self.count, 'example')} of a "
                "batch to denoise"
            )

    def draw(self, models, batch, key):
        latents = batch["latents"][: self.count].astype(jnp.float32)
        timesteps, noise = draw_noise(key, latents, models.schedule)
        return {"latents": latents, "timesteps": timesteps, "noise": noise}

    def encode(self, models, hidden_states, examples):
        context = hidden_states[: len(examples["latents"])]
        context = jax.lax.with_sharding_constraint(context, batch_sharding(self.mesh))
        drawn = examples["latents"], context, examples["timesteps"], examples["noise"]
        return denoising_errors_at(models.unet, models.schedule, *drawn)[0]

    def combine(self, models, params, outputs, batch):
        return jnp.mean(outputs)


LOSSES: dict[str, type[Loss]] = {
    "contrastive": ContrastiveLoss,
    "sequence": SequenceLoss,
    "denoise": DenoisingLoss,
}


def make_losses(config: TrainConfig, mesh: Mesh | None = None) -> dict[str, Loss]:
    """The losses that a config gives a weight above 0, by name, in the order of LOSSES.

    Raises ValueError for an unknown loss, weights below 0 or all 0, and whatever a loss cannot be trained with.
    """
    weights = config.weights
    if unknown := sorted(weights.keys() - LOSSES.keys()):
        raise ValueError(f"weights.{unknown[0]} is of no loss; the losses are {', '.join(LOSSES)}")
    if not all(0 <= weight < math.inf for weight in weights.values()) or not any(weights.values()):
        raise ValueError(f"weights are {weights}; allowed: none below 0, one above")
    return {name: loss(config, mesh) for name, loss in LOSSES.items() if weights.get(name)}


def loss_columns(config: TrainConfig) -> list[str]:
    """The columns of the data set that the losses of a config need."""
    return list(dict.fromkeys(["audio", *(name for loss in make_losses(config).values() for name in loss.columns)]))


def make_gradient(
    config: TrainConfig, graph: nnx.GraphDef, models_graph: nnx.GraphDef, mesh: Mesh | None = None
) -> Callable:
    """The gradient of the weighted sum of a config's losses.

    Args:
        config: gives the losses and their weights, dropout and the parts in which a batch is encoded.
        graph: the encoder's.
        models_graph: the FrozenModels'.
        mesh: the devices that the batch is spread over (default: all devices of the job).

    Returns:
        `gradient(params, frozen, batch, key) -> ((loss, loss by name), gradients)`. `params` has the encoder's as
        "encoder", beside those of the losses; `frozen` are the FrozenModels' arrays.
    """

    def condition(models, params, examples, key):
        encoder = nnx.merge(graph, params["encoder"])
        dropout = {"rngs": key} if config.dropout and takes_rngs(encoder) else {}
        return models, encoder(examples["audio"], **dropout)

    losses = make_losses(config, mesh)
    return gradient_of_losses(losses, config.weights, condition, models_graph, config.accumulate)


def gradient_of_losses(
    losses: Mapping[str, Loss],
    weights: Mapping[str, float],
    condition: Callable[[FrozenModels, PyTree, Batch, jax.Array], tuple[FrozenModels, jax.Array]],
    models_graph: nnx.GraphDef,
    parts: int,
) -> Callable:
    """The gradient of the weighted sum of losses, whatever it is that trains.

    Args:
        losses: the losses by name.
        weights: of each.
        condition: `condition(models, params, examples, key)` gives the models that the losses go through and the hidden
            states (batch, 77, width) that condition them. What trains is in either.
        models_graph: the FrozenModels'.
        parts: in which a batch is computed.

    Returns:
        What `make_gradient` returns.
    """

    def encode(models, params, examples, key):
        models, hidden_states = condition(models, params, examples, key)
        return {name: loss.encode(models, hidden_states, examples) for name, loss in losses.items()}

    def combine(models, params, outputs, batch):
        values = {name: loss.combine(models, params, outputs[name], batch) for name, loss in losses.items()}
        return sum(weights[name] * value for name, value in values.items()), values

    def gradient(params, frozen, batch, key):
        models = nnx.merge(models_graph, frozen)
        condition_key, draw_key = jax.random.split(key)
        drawn: Batch = {}
        for loss in losses.values():
            drawn |= loss.draw(models, batch, draw_key)
        computed = partial(encode, models), partial(combine, models)
        return value_and_gradient(*computed, parts)(params, batch | drawn, condition_key)

    return gradient


def cross_entropies(
    embeddings: Float[Array | np.ndarray, "batch features"],
    targets: Float[Array | np.ndarray, "batch features"],
    scale: float | Float[Array, ""] = 1.0,
    valid: Bool[Array | np.ndarray, " batch"] | None = None,
    block: int = SIMILARITY_BLOCK,
) -> Float[Array, ""]:
    """CE(P) + CE(P^T) of P = scale * embeddings targets^T against the identity (TCEOCS of arXiv 2509.09717).

    P is computed `block` columns at a time, forwards and backwards, so memory grows linearly with the batch. Chance
    level is 2 ln(batch).

    Args:
        embeddings: unit-norm float32.
        targets: unit-norm float32, one of each embedding.
        scale: the inverse temperature.
        valid: which examples count (default: all).
        block: how many columns of P are computed at a time.

    Returns:
        The mean over the examples that count.
    """
    size = len(embeddings)
    valid = jnp.ones(size, bool) if valid is None else valid
    count = -(-size // block)
    width = -(-size // count)

    def in_blocks(x):
        return jnp.pad(x, [(0, count * width - size)] + [(0, 0)] * (x.ndim - 1)).reshape(count, width, *x.shape[1:])

    @jax.checkpoint
    def add_block(row_sums, part):
        columns, counted = part
        logits = scale * jnp.matmul(embeddings, columns.T, precision="highest")
        column_sums = logsumexp(jnp.where(valid[:, None], logits, LOG_ZERO), axis=0)
        return jnp.logaddexp(row_sums, logsumexp(jnp.where(counted[None], logits, LOG_ZERO), axis=1)), column_sums

    blocks = in_blocks(targets), in_blocks(valid)
    row_sums, column_sums = jax.lax.scan(add_block, jnp.full(size, LOG_ZERO), blocks)
    matches = scale * jnp.sum(embeddings * targets, axis=1)
    return jnp.mean(row_sums + column_sums.reshape(-1)[:size] - 2 * matches, where=valid)
