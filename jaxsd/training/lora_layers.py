"""A U-Net whose layers have low-rank changes beside them, for training: layer(x) + up(down(x)).

Beside the layer, and not added to its kernel, for a small change of a kernel in bfloat16 would be lost in rounding.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import PyTree

from jaxsd.config import LoRAConfig
from jaxsd.diffusion.lora import Factors
from jaxsd.diffusion.unet import UNet
from jaxsd.pretrained.mapping import parameters

# Which kernels of the U-Net are changed: as diffusers by default, all of kohya's scripts' default, and LoCon's.
LAYERS = {
    "attention": r".+\.attn[12]\.to_(q|k|v|out)\.kernel",
    "transformer": r".+\.attentions\..+\.kernel",
    "all": r".+\.(attentions|resnets|downsample|upsample)\..+\.kernel",
}


class LowRankLayer(nnx.Module):
    """A layer plus up(down(x)), of which `down` is of the layer's own kind, and `up` a matrix."""

    def __init__(self, layer: nnx.Linear | nnx.Conv, down: jax.Array, up: jax.Array):
        self.layer = layer
        rank, dtype, rngs = len(up), layer.dtype, nnx.Rngs(0)
        if isinstance(layer, nnx.Linear):
            make_down = nnx.Linear
            options = {}
        else:
            make_down = nnx.Conv
            options = {"kernel_size": layer.kernel_size, "strides": layer.strides, "padding": layer.padding}
            options["conv_general_dilated"] = layer.conv_general_dilated
        common = {"use_bias": False, "dtype": dtype, "rngs": rngs}
        self.down = make_down(layer.in_features, rank, kernel_init=_constant(down), **options, **common)
        self.up = nnx.Linear(rank, layer.out_features, kernel_init=_constant(up), **common)

    def __call__(self, x):
        return self.layer(x) + self.up(self.down(x))


def init_lora(config: LoRAConfig, unet: UNet) -> dict[str, PyTree]:
    """The parameters that train, by the name of the kernel that they change: kernels of `down` and `up`.

    `down` is drawn as PEFT draws it, and `up` is 0: at first nothing is changed.
    """
    # Kaiming's uniform with a slope of the square root of 5
    draw = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    params, key = {}, jax.random.key(config.seed)
    for number, (name, kernel) in enumerate(parameters(unet).items()):
        if re.fullmatch(LAYERS[config.layers], name):
            *inputs, features = kernel.shape
            down = draw(jax.random.fold_in(key, number), (*inputs, config.rank), jnp.float32)
            up = jnp.zeros((config.rank, features), jnp.float32)
            params[name] = {"down": {"kernel": down}, "up": {"kernel": up}}
    return params


def with_low_rank(unet: UNet, params: Mapping[str, PyTree]) -> UNet:
    """A copy of the U-Net whose layers have the changes of `init_lora` beside them; the arrays are shared."""
    changed = nnx.merge(*nnx.split(unet))
    for name, change in params.items():
        *path, attribute, _ = name.split(".")
        parent: Any = changed
        for part in path:
            parent = parent[int(part)] if part.isdigit() else getattr(parent, part)
        layer = getattr(parent, attribute)
        setattr(parent, attribute, LowRankLayer(layer, change["down"]["kernel"], change["up"]["kernel"]))
    return changed


def lora_factors(params: Mapping[str, PyTree]) -> dict[str, Factors]:
    """The same changes as a LoRA has them."""
    return {name: Factors(change["down"]["kernel"], change["up"]["kernel"]) for name, change in params.items()}


def _constant(array: jax.Array) -> Callable[..., jax.Array]:
    return lambda *_: array
