"""What several encoders need and Flax NNX does not bring: PyTorch's initialization, and dropout without state."""

import math
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt32

from encoders.spectrogram import frames

DROPOUT = 0.1  # the rate of every dropout in the five encoders
PATCH = 208  # samples; 77 patches are 16 more samples than a clip has, which are zeros


def uniform(fan_in: int) -> Callable[..., jax.Array]:
    """PyTorch's default for weights and biases of Linear and Conv: uniform within 1 / sqrt(fan_in)."""
    limit = fan_in**-0.5
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -limit, limit)


def linear(features_in: int, features_out: int, **kwargs) -> nnx.Linear:
    """`nnx.Linear` initialized as `torch.nn.Linear`."""
    init: dict[str, Any] = {"kernel_init": uniform(features_in), "bias_init": uniform(features_in)}
    return nnx.Linear(features_in, features_out, **init | kwargs)


class PatchConv1d(nnx.Linear):
    """A Conv1d over the waveform whose stride is its kernel size, PATCH, as one matrix product."""

    counted_as: ClassVar[str] = "Conv1d"

    def __init__(self, width: int, *, dtype: DTypeLike, param_dtype: DTypeLike, rngs: nnx.Rngs):
        init = uniform(PATCH)
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        super().__init__(PATCH, width, kernel_init=init, bias_init=init, **options)

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]: a waveform in place of patches
        self, x: Float[Array, "batch 16000"]
    ) -> Float[Array, "batch 77 width"]:
        return super().__call__(frames(x, PATCH, PATCH))


class Conv1d(nnx.Module):
    """1-D convolution with 'same' padding on (batch, channels, time), the layout that keeps LayerNorm's axis last."""

    counted_as: ClassVar[str] = "Conv1d"

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        size: int,
        stride: int = 1,
        *,
        kernel_init: Callable[..., jax.Array] | None = None,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        default = uniform(size * channels_in)
        shape = (size, channels_in, channels_out)
        self.kernel = nnx.Param((kernel_init or default)(rngs.params(), shape, param_dtype))
        self.bias = nnx.Param(default(rngs.params(), (channels_out,), param_dtype))
        self.stride = stride
        self.dtype = dtype

    def __call__(self, x: Float[Array, "batch channels_in samples"]) -> Float[Array, "batch channels_out time"]:
        kernel, bias = self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype), kernel, (self.stride,), "SAME", dimension_numbers=("NCH", "HIO", "NCH")
        )
        return y + bias[None, :, None]


def layer_norm(
    features: int, *, dtype: DTypeLike = jnp.float32, param_dtype: DTypeLike, rngs: nnx.Rngs
) -> nnx.LayerNorm:
    """Layer normalization over the last axis, always computed in float32 and returning `dtype`.

    In 16 bits mean and variance come from one pass, whose rounding is far below that of the result.
    """
    half = jnp.dtype(dtype).itemsize == 2
    return nnx.LayerNorm(
        features, epsilon=1e-5, use_fast_variance=half, dtype=dtype, param_dtype=param_dtype, rngs=rngs
    )


class OneKey(nnx.Rngs):
    """`nnx.Rngs` whose every stream gives the same key, for where values do not matter."""

    def __init__(self):
        self.key = jax.random.key(0)

    def __call__(self) -> jax.Array:
        return self.key

    # Calling what these return is all that `nnx` does with a stream.
    def __getattr__(self, name: str) -> Callable[[], jax.Array]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Callable[[], jax.Array]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return lambda: self.key


def abstract(make: Callable[..., nnx.Module]) -> nnx.Module:
    """What `make(rngs=...)` makes, with shapes for parameters.

    `nnx.eval_shape` of it with `nnx.Rngs` traces how keys are drawn, and that takes ten times as long as all the rest.
    """
    return nnx.eval_shape(lambda: make(rngs=OneKey()))


def remat_block(call: Callable) -> Callable:
    """For the `__call__` of a block: if the block's `remat` is true, the gradient computes its activations again."""

    @wraps(call)
    def wrapped(self, *inputs, **options):
        function = partial(call, self, **options)
        return jax.checkpoint(function)(*inputs) if self.remat else function(*inputs)

    return wrapped


def rematerialize(model: nnx.Module) -> None:
    """Set `remat` in all blocks of a model: the gradient then takes less memory and more time."""
    model.set_attributes(remat=True, raise_if_not_found=False)


def dropout(x: Float[Array, "*shape"], key: jax.Array | None, rate: float = DROPOUT) -> Float[Array, "*shape"]:
    """Set elements to zero at `rate` and scale up the rest; without a key, return x."""
    return x if key is None else _drop(rate, x, jax.random.bits(key, (2,)))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _drop(rate: float, x: jax.Array, words: jax.Array) -> jax.Array:
    """The gradient draws the mask again, which is cheap, where it would be kept otherwise."""
    return jnp.where(hashed_bits(words, x.shape) >= np.uint32(rate * 2**32), x * (1 / (1 - rate)), 0)


def _drop_gradient(rate: float, words: jax.Array, gradient: jax.Array) -> tuple[jax.Array, None]:
    gradient, words = jax.lax.optimization_barrier((gradient, words))  # or XLA would keep the mask of the forward pass
    return _drop(rate, gradient, words), None


_drop.defvjp(lambda rate, x, words: (_drop(rate, x, words), words), _drop_gradient)


def hashed_bits(words: UInt32[Array, "2"], shape: tuple[int, ...]) -> UInt32[Array, "..."]:
    """Random bits of a shape: each element's index, hashed with two random words."""
    index = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        index += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(math.prod(shape[axis + 1 :]) % 2**32)
    return hash_indices((words[0], words[1]), index)


def hash_indices(words: Sequence[UInt32[Array, ""]], index: UInt32[Array, "*shape"]) -> UInt32[Array, "*shape"]:
    """Random bits for each index, from as many rounds of hashing as there are words.

    A tenth of the work of JAX's own generators, in a form that XLA computes inside the kernel that needs it. Each round
    is a multiply-xorshift hash of 32 bits with a bias of 0.17 (C. Wellons, "lowbias32").
    """
    for word in words:
        index = index + word
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            index = (index ^ (index >> shift)) * np.uint32(factor)
        index = index ^ (index >> 16)
    return index


def dropout_key(rngs: nnx.Rngs | jax.Array | None) -> jax.Array | None:
    """The key for one call's dropout: from the "dropout" stream of `rngs`, or `rngs` itself if it is a key."""
    return rngs.dropout() if isinstance(rngs, nnx.Rngs) else rngs


def split_key(key: jax.Array | None, count: int) -> list[jax.Array] | list[None]:
    """`count` independent keys; of None, as many None."""
    return [None] * count if key is None else list(jax.random.split(key, count))
