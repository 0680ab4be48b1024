"""What several encoders need and Flax NNX does not bring: PyTorch's initialisation, and dropout without state."""

from collections.abc import Callable
from functools import partial, wraps

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from encoders.spectrogram import frame

DROPOUT = 0.1  # the rate of every dropout in the five encoders


def uniform(fan_in: int) -> Callable:
    """PyTorch's default for weights and biases of Linear and Conv: uniform within 1 / sqrt(fan_in)."""
    limit = fan_in**-0.5
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -limit, limit)


def linear(features_in: int, features_out: int, **kwargs) -> nnx.Linear:
    """`nnx.Linear` initialised as `torch.nn.Linear`."""
    init = {"kernel_init": uniform(features_in), "bias_init": uniform(features_in)}
    return nnx.Linear(features_in, features_out, **init | kwargs)


class PatchConv1d(nnx.Linear):
    """A Conv1d over the waveform whose stride is its kernel size, as one matrix product."""

    def __init__(self, size: int, width: int, *, dtype: DTypeLike, param_dtype: DTypeLike, rngs: nnx.Rngs):
        init = {"kernel_init": uniform(size), "bias_init": uniform(size)}
        super().__init__(size, width, **init, dtype=dtype, param_dtype=param_dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "batch 16000"]) -> Float[Array, "batch 77 width"]:
        return super().__call__(frame(x, self.in_features, self.in_features))


def layer_norm(features: int, *, param_dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Layer normalisation over the last axis, always computed in and returning float32."""
    return nnx.LayerNorm(
        features, epsilon=1e-5, use_fast_variance=False, dtype=jnp.float32, param_dtype=param_dtype, rngs=rngs
    )


class OneKey:
    """In place of `nnx.Rngs` where values do not matter: every parameter gets the same key."""

    def __init__(self):
        self.key = jax.random.key(0)

    def params(self) -> jax.Array:
        return self.key


def abstract(make: Callable[..., nnx.Module]) -> nnx.Module:
    """What `make(rngs=...)` makes, with shapes for parameters.

    `nnx.eval_shape` of it with `nnx.Rngs` traces how keys are drawn, and that takes ten times as long as all the rest.
    """
    return nnx.eval_shape(lambda: make(rngs=OneKey()))


def remat_block(call: Callable) -> Callable:
    """For the `__call__` of a block: where its `remat` is true, its activations are computed again on the way back."""

    @wraps(call)
    def wrapped(self, *inputs):
        return jax.checkpoint(partial(call, self))(*inputs) if self.remat else call(self, *inputs)

    return wrapped


def rematerialise(model: nnx.Module) -> None:
    """Turn `remat` on in all blocks of a model: the gradient then takes less memory and more time."""
    for _, module in nnx.iter_modules(model):
        if hasattr(module, "remat"):
            module.remat = True


def dropout(x: jax.Array, key: jax.Array | None, rate: float = DROPOUT) -> jax.Array:
    """Zero elements at `rate` and scale up the rest; without a key, return x."""
    if key is None:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


def dropout_key(rngs: nnx.Rngs | jax.Array | None) -> jax.Array | None:
    """The key for one call's dropout: from the "dropout" stream of `rngs`, or `rngs` itself if it is a key."""
    return rngs.dropout() if isinstance(rngs, nnx.Rngs) else rngs


def split(key: jax.Array | None, count: int) -> list[jax.Array | None]:
    """`count` independent keys, or as many None."""
    return [None] * count if key is None else list(jax.random.split(key, count))
