"""Optimizers and learning rate schedules, by the names they have in configs."""

from functools import partial

import jax
import optax
from jaxtyping import PyTree
from optax.contrib import MuonDimensionNumbers
from optax.contrib import muon as muon_or_adam

from jaxsd.config import RunConfig


def muon_dimensions(params: PyTree) -> PyTree:
    """How every kernel is a matrix, (all that goes in, features out), and None for other parameters."""

    def spec(path, x):
        if path[-1].key != "kernel":
            return None
        return MuonDimensionNumbers(reduction_axis=tuple(range(x.ndim - 1)), output_axis=x.ndim - 1)

    return jax.tree_util.tree_map_with_path(spec, params)


def is_kernel(params: PyTree) -> PyTree:
    """Which parameters decay: matrices and convolutions, not biases, norms, position embeddings or the temperature."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


# Muon for the kernels of linear and convolutional layers and Adam for the rest, at one learning rate: updates are
# scaled to the size of Adam's (arXiv 2502.16982).
muon = partial(muon_or_adam, consistent_rms=0.2, adam_b2=0.99, muon_weight_dimension_numbers=muon_dimensions)

OPTIMIZERS = {"adam": optax.adam, "adamw": optax.adamw, "muon": muon}
SCHEDULES = {
    "constant": lambda peak, warmup, steps: optax.warmup_constant_schedule(0.0, peak, warmup) if warmup else peak,
    "cosine": lambda peak, warmup, steps: optax.warmup_cosine_decay_schedule(0.0, peak, warmup, steps),
}


def make_optimizer(config: RunConfig, steps: int) -> optax.GradientTransformation:
    """The optimizer of a config, for a training of `steps`."""
    schedule = SCHEDULES[config.schedule](config.learning_rate, config.warmup, steps)
    options = {"weight_decay": config.weight_decay, "mask": is_kernel} if config.optimizer == "adamw" else {}
    optimizer = OPTIMIZERS[config.optimizer](schedule, **options)
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer) if config.clip_norm else optimizer
