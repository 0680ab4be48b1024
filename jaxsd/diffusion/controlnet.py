"""ControlNet 1.x (Zhang et al., arXiv 2302.05543), diffusers' ControlNetModel: an image that says where things are."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Num

from jaxsd.diffusion.layers import conv
from jaxsd.diffusion.loading import MODEL_NAME, is_single_file
from jaxsd.diffusion.single_file import SINGLE_FILE_IGNORED, half_mapping
from jaxsd.diffusion.unet import ControlResiduals, UNet, UNetHalf, UNetHalfConfig
from jaxsd.diffusion.unet_params import UNET_MAPPING
from jaxsd.pretrained.hub import fetch
from jaxsd.pretrained.mapping import Rule, module
from jaxsd.pretrained.model_config import read_model_config
from jaxsd.pretrained.recognize import OTHER_MODELS, recognize_unet
from jaxsd.pretrained.weights import DIFFUSERS_WEIGHTS, download_weights, find_weights, load_weights, open_tensors
from jaxsd.runtime.files import read_json

CONTROLNET = "a ControlNet"  # what errors call it
FIRST_CODE_PREFIX = "control_model."  # of the names of the first ControlNet code


@dataclass(frozen=True)
class ControlNetConfig(UNetHalfConfig):
    """The fields of a ControlNet's `config.json`, under diffusers' names.

    `conditioning_embedding_out_channels` are those of the layers over the image, each of which but the last halves it.
    """

    conditioning_channels: int = 3
    conditioning_embedding_out_channels: tuple[int, ...] = (16, 32, 96, 256)

    FIXED = {
        **UNetHalfConfig.FIXED,
        "conditioning_channels": 3,
        "controlnet_conditioning_channel_order": "rgb",
        "global_pool_conditions": False,
    }

    @property
    def factor(self) -> int:
        """How many times larger the image is than the latents."""
        return 2 ** (len(self.conditioning_embedding_out_channels) - 1)


class ConditionEmbedding(nnx.Module):
    """The image as a map of the size of the latents."""

    def __init__(self, config: ControlNetConfig, *, dtype, rngs):
        widths = config.conditioning_embedding_out_channels
        options = {"dtype": dtype, "rngs": rngs}
        self.conv_in = conv(config.conditioning_channels, widths[0], 3, **options)
        blocks = []
        for width, following in zip(widths[:-1], widths[1:], strict=True):
            blocks += [
                conv(width, width, 3, **options),
                nnx.Conv(width, following, (3, 3), strides=2, padding=1, **options),
            ]
        self.blocks = nnx.List(blocks)
        self.conv_out = conv(widths[-1], config.block_out_channels[0], 3, **options)

    def __call__(self, images):
        x = jax.nn.silu(self.conv_in(images))
        for block in self.blocks:
            x = jax.nn.silu(block(x))
        return self.conv_out(x)


class ControlNet(UNetHalf):
    """A copy of the U-Net's way down that sees an image, with a convolution of 1 x 1 from each of its maps."""

    config: ControlNetConfig

    def __init__(self, config: ControlNetConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        super().__init__(config, dtype=dtype, rngs=rngs)
        options = {"dtype": dtype, "rngs": rngs}
        self.condition_embedding = ConditionEmbedding(config, **options)
        self.zero_convs = nnx.List([conv(width, width, 1, **options) for width in self.skip_widths])
        width = config.block_out_channels[-1]
        self.middle_zero_conv = conv(width, width, 1, **options)

    def embed_images(
        self, images: Float[Array, "batch image_height image_width 3"]
    ) -> Float[Array, "batch height width features"]:
        """What it sees of images in [0, 1]: the same at every step."""
        return self.condition_embedding(images.astype(self.dtype))

    def residuals(
        self,
        latents: Float[Array, "batch height width channels"],
        timesteps: Num[Array, " batch"],
        keys_values: list,
        embedded: Float[Array, "batch height width features"],
        scale: Float[Array, ""] | float = 1.0,
    ) -> ControlResiduals:
        """What it adds to the U-Net at a step, times `scale`; `embedded` is what `embed_images` gives."""
        x = self.conv_in(latents.astype(self.dtype)) + embedded
        middle, skips = self.go_down(x, self.embed_time(timesteps), iter(keys_values))
        scale = jnp.asarray(scale, self.dtype)
        scaled = [scale * zero_conv(skip) for zero_conv, skip in zip(self.zero_convs, skips, strict=True)]
        return ControlResiduals(scaled, scale * self.middle_zero_conv(middle))


CONTROLNET_MAPPING = (
    *module("controlnet_cond_embedding.{name}", "condition_embedding.{name}", "conv2d", name=r"conv_in|conv_out"),
    *module("controlnet_cond_embedding.blocks.{n}", "condition_embedding.blocks.{n}", "conv2d"),
    *module("controlnet_down_blocks.{n}", "zero_convs.{n}", "conv2d"),
    *module("controlnet_mid_block", "middle_zero_conv", "conv2d"),
    *UNET_MAPPING,
)


def first_code_mapping(config: ControlNetConfig, source: str) -> tuple[Rule, ...]:
    """The rules of a file with the names of the first ControlNet code, which begin with `source`."""
    last = 2 * len(config.conditioning_embedding_out_channels) - 1
    hint = f"{source}input_hint_block"
    blocks = range(last - 1)
    return (
        *module(f"{hint}.0", "condition_embedding.conv_in", "conv2d"),
        *(rule for n in blocks for rule in module(f"{hint}.{2 * n + 2}", f"condition_embedding.blocks.{n}", "conv2d")),
        *module(f"{hint}.{2 * last}", "condition_embedding.conv_out", "conv2d"),
        *module(f"{source}zero_convs.{{n}}.0", "zero_convs.{n}", "conv2d"),
        *module(f"{source}middle_block_out.0", "middle_zero_conv", "conv2d"),
        *half_mapping(config, source, ""),
    )


def load_controlnet(
    source: str | Path,
    dtype: DTypeLike,
    *,
    revision: str | None = None,
    variant: str | None = None,
    config: ControlNetConfig | None = None,
) -> ControlNet:
    """Load a ControlNet of Stable Diffusion 1.x.

    Args:
        source: A folder or Hugging Face repository in diffusers' layout, or one file with diffusers' names or those of
            the first ControlNet code.
        dtype: Of all parameters, and of the computation.
        revision: A branch, tag or commit of the repository.
        variant: What the weights' file names contain, such as "fp16".
        config: That of a single file, by default that of Stable Diffusion 1.5.

    Raises:
        FileNotFoundError, ValueError: Name the file that is missing, damaged, of another model, or does not fit.
    """
    path = Path(source)
    if is_single_file(path):
        config = config or ControlNetConfig()
        files, names = [path], open_tensors([path])
        mapping = CONTROLNET_MAPPING
        if not any(name.startswith("controlnet_") for name in names):
            prefix = FIRST_CODE_PREFIX if any(name.startswith(FIRST_CODE_PREFIX) for name in names) else ""
            mapping = first_code_mapping(config, prefix)
    else:
        folder = fetch(source, ("config.json",), revision)
        if other := recognize_unet(read_json(folder / "config.json")):
            raise ValueError(f"{folder / 'config.json'} is that of {other}, not of {CONTROLNET} for {MODEL_NAME}")
        config = read_model_config(ControlNetConfig, folder / "config.json")
        download_weights(source, folder, {"": DIFFUSERS_WEIGHTS}, variant)
        files, mapping = find_weights(folder, DIFFUSERS_WEIGHTS, variant), CONTROLNET_MAPPING
    others = [model for model in OTHER_MODELS if model[0] != CONTROLNET]
    make = partial(ControlNet, config, dtype=dtype)
    ignored = (*SINGLE_FILE_IGNORED, r"(model|first_stage_model|cond_stage_model)\..+")
    return load_weights(files, mapping, make, dtype, ignored, wanted=CONTROLNET, others=others)


def check_controlnet_fits(name: str | Path, controlnet: ControlNet, unet: UNet, factor: int) -> None:
    """Raise ValueError where a ControlNet is for another U-Net, or for a VAE of another `factor`; `name` is its own."""
    ours, theirs = controlnet.config, unet.config
    pairs = {
        "block_out_channels": (ours.block_out_channels, theirs.block_out_channels),
        "layers_per_block": (ours.layers_per_block, theirs.layers_per_block),
        "cross_attention_dim": (ours.cross_attention_dim, theirs.cross_attention_dim),
        "in_channels": (ours.in_channels, theirs.out_channels),  # it never sees the mask of an inpainting model
        "scale of the image": (ours.factor, factor),
    }
    for what, (one, other) in pairs.items():
        if one != other:
            raise ValueError(f"{name}: the ControlNet's {what} is {one}, and the model's is {other}")
