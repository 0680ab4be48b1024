"""The U-Net of Stable Diffusion 1.x (Rombach et al., arXiv 2112.10752), diffusers' UNet2DConditionModel."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Num

from jaxsd.diffusion.layers import Attention, Downsample, ResnetBlock, Upsample, conv, group_norm, remat_where_asked
from jaxsd.diffusion.token_merging import TokenMerging, merge_similar

BLOCK_TYPES = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}


SHALLOW = 2  # layers of the way up that a step computes which reuses deep features; of the way down it is one less


@dataclass(frozen=True)
class UNetHalfConfig:
    """The fields of a `config.json` that say how the half of the U-Net on the way down is made, under diffusers' names.

    `attention_head_dim` is the number of heads: diffusers kept the wrong name for its checkpoints' sake.
    """

    in_channels: int = 4
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    layers_per_block: int = 2
    cross_attention_dim: int = 768
    attention_head_dim: int | tuple[int, ...] = 8
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    flip_sin_to_cos: bool = True
    freq_shift: int = 0

    # What the modules below are: a checkpoint that says otherwise is another model.
    FIXED = {
        "act_fn": "silu",
        "addition_embed_type": None,
        "class_embed_type": None,
        "downsample_padding": 1,
        "encoder_hid_dim": None,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "num_attention_heads": None,
        "only_cross_attention": False,
        "resnet_time_scale_shift": "default",
        "transformer_layers_per_block": 1,
        "use_linear_projection": False,
    }

    def __post_init__(self):
        levels = len(self.block_out_channels)
        for name, choices in BLOCK_TYPES.items():
            types = getattr(self, name, None)
            if types is not None and (len(types) != levels or not set(types) <= set(choices)):
                raise ValueError(f"{name} is {list(types)}; allowed: {levels} of {', '.join(choices)}")
        dims = self.attention_head_dim
        if not isinstance(dims, int) and len(dims) != levels:
            raise ValueError(f"attention_head_dim is {list(dims)}; allowed: one for all or {levels}")
        if self.layers_per_block < 1 or self.norm_num_groups < 1:
            raise ValueError("layers_per_block and norm_num_groups must be 1 or more")
        for level, width in enumerate(self.block_out_channels):
            if width < 1 or width % self.norm_num_groups or self.heads(level) < 1 or width % self.heads(level):
                raise ValueError(
                    f"block_out_channels has {width}; allowed: multiples of norm_num_groups, {self.norm_num_groups}, "
                    f"and of attention_head_dim, {self.heads(level)}"
                )

    def heads(self, level: int) -> int:
        dims = self.attention_head_dim
        return dims if isinstance(dims, int) else dims[level]


@dataclass(frozen=True)
class UNetConfig(UNetHalfConfig):
    """The fields of `unet/config.json` that Stable Diffusion 1.x sets."""

    sample_size: int = 64
    out_channels: int = 4
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3

    FIXED = {
        **UNetHalfConfig.FIXED,
        "center_input_sample": False,
        "dual_cross_attention": False,
        "time_embedding_type": "positional",
    }

    def __post_init__(self):
        super().__post_init__()
        if self.sample_size < 1:
            raise ValueError("sample_size must be 1 or more")


def timestep_embedding(
    timesteps: Num[Array, " batch"], features: int, flip_sin_to_cos: bool, freq_shift: int
) -> Float[Array, "batch features"]:
    """Sinusoids of the (possibly fractional) timesteps, float32."""
    half = features // 2
    frequencies = jnp.exp(-jnp.log(10000.0) * jnp.arange(half, dtype=jnp.float32) / (half - freq_shift))
    angles = timesteps.astype(jnp.float32)[:, None] * frequencies[None]
    parts = (jnp.cos(angles), jnp.sin(angles)) if flip_sin_to_cos else (jnp.sin(angles), jnp.cos(angles))
    return jnp.concatenate(parts, axis=-1)


class TimeEmbedding(nnx.Module):
    def __init__(self, features_in, features, *, dtype, rngs):
        self.linear_1 = nnx.Linear(features_in, features, dtype=dtype, rngs=rngs)
        self.linear_2 = nnx.Linear(features, features, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return self.linear_2(jax.nn.silu(self.linear_1(x)))


class FeedForward(nnx.Module):
    """GEGLU (exact GELU) to four times the width and back."""

    def __init__(self, features, *, dtype, rngs):
        self.proj = nnx.Linear(features, 8 * features, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(4 * features, features, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        h, gate = jnp.split(self.proj(x), 2, axis=-1)
        return self.out(h * jax.nn.gelu(gate, approximate=False))


class TransformerBlock(nnx.Module):
    """Self-attention, cross-attention, feed-forward; pre-norm, residual."""

    def __init__(self, features, context_features, heads, *, dtype, rngs):
        norm = partial(nnx.LayerNorm, features, epsilon=1e-5, dtype=dtype, rngs=rngs)
        attention = partial(Attention, heads=heads, bias=False, dtype=dtype, rngs=rngs)
        self.norm1, self.norm2, self.norm3 = norm(), norm(), norm()
        self.attn1 = attention(features, features)
        self.attn2 = attention(features, context_features)
        self.ff = FeedForward(features, dtype=dtype, rngs=rngs)

    def __call__(self, x, keys_values, merging: Callable[[Array], TokenMerging] | None = None):
        if merging is None:
            x = x + self.attn1(self.norm1(x))
        else:
            merge, unmerge = merging(x)
            x = x + unmerge(self.attn1(merge(self.norm1(x))))
        x = x + self.attn2(self.norm2(x), keys_values)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nnx.Module):
    """A transformer block over the positions of a feature map, residual.

    merged_tokens: the share of the positions that self-attention merges into others (`token_merging`).
    """

    def __init__(self, features, context_features, heads, groups, *, dtype, rngs):
        self.remat = False
        self.merged_tokens = 0.0
        self.norm = group_norm(features, groups, 1e-6, dtype=dtype, rngs=rngs)
        self.proj_in = conv(features, features, 1, dtype=dtype, rngs=rngs)
        self.transformer_blocks = nnx.List(
            [TransformerBlock(features, context_features, heads, dtype=dtype, rngs=rngs)]
        )
        self.proj_out = conv(features, features, 1, dtype=dtype, rngs=rngs)

    def keys_values(self, context):
        return [block.attn2.keys_values(context) for block in self.transformer_blocks]

    @remat_where_asked
    def __call__(self, x, keys_values):
        h = self.proj_in(self.norm(x)).reshape(x.shape[0], -1, x.shape[-1])
        merging = None
        if self.merged_tokens:
            merging = partial(merge_similar, height=x.shape[1], width=x.shape[2], share=self.merged_tokens)
        for block, pair in zip(self.transformer_blocks, keys_values, strict=True):
            h = block(h, pair, merging)
        return x + self.proj_out(h.reshape(x.shape))


class UNetStage(nnx.Module):
    """One resolution of the U-Net: residual blocks, each followed by attention where the level has it."""

    downsample: Downsample
    upsample: Upsample

    def __init__(self, widths_in, features, attention, resnet):
        self.resnets = nnx.List([resnet(width, features) for width in widths_in])
        if attention:
            self.attentions = nnx.List([attention(features) for _ in widths_in])

    def layers(self):
        attentions = self.attentions if hasattr(self, "attentions") else [None] * len(self.resnets)
        return zip(self.resnets, attentions, strict=True)


class UNetMidBlock(nnx.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, features, attention, resnet):
        self.resnets = nnx.List([resnet(features, features) for _ in range(2)])
        self.attentions = nnx.List([attention(features)])

    def __call__(self, x, time, keys_values):
        x = self.attentions[0](self.resnets[0](x, time), keys_values)
        return self.resnets[1](x, time)


class ControlResiduals(NamedTuple):
    """What a ControlNet adds to the maps that the way down hands to the way up, and to that behind the middle."""

    skips: list[Array]
    middle: Array


class DeepFeatures(NamedTuple):
    """What changes little from step to step (DeepCache, Ma et al., arXiv 2312.00858).

    features: the map that goes into the last SHALLOW layers of the way up. control: what a ControlNet adds to the skips
    of these.
    """

    features: Array
    control: list[Array] | None = None


class UNetHalf(nnx.Module):
    """The half of the U-Net on the way down with the middle, of which a ControlNet is a copy."""

    def __init__(self, config: UNetHalfConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        self.config = config
        self.dtype = dtype
        widths = config.block_out_channels
        options = {"dtype": dtype, "rngs": rngs}
        self.conv_in = conv(config.in_channels, widths[0], 3, **options)
        self.time_embedding = TimeEmbedding(widths[0], 4 * widths[0], **options)

        width_in = widths[0]
        down_blocks = []
        for level, (name, width) in enumerate(zip(config.down_block_types, widths, strict=True)):
            widths_in = [width_in] + [width] * (config.layers_per_block - 1)
            attention = self._attention(level, options) if name.startswith("CrossAttn") else None
            block = UNetStage(widths_in, width, attention, self._resnet(options))
            if level + 1 < len(widths):
                block.downsample = Downsample(width, **options)
            down_blocks.append(block)
            width_in = width
        self.down_blocks = nnx.List(down_blocks)
        self.mid_block = UNetMidBlock(widths[-1], self._attention(len(widths) - 1, options), self._resnet(options))

    def _resnet(self, options: dict) -> Callable:
        config = self.config
        rest = 4 * config.block_out_channels[0], config.norm_num_groups, config.norm_eps
        return lambda features_in, features_out: ResnetBlock(features_in, features_out, *rest, **options)

    def _attention(self, level: int, options: dict) -> Callable:
        config = self.config
        rest = config.cross_attention_dim, config.heads(level), config.norm_num_groups
        return lambda features: SpatialTransformer(features, *rest, **options)

    @property
    def skip_widths(self) -> list[int]:
        """The channels of the maps that the way down hands to the way up, in their order."""
        config = self.config
        widths = [config.block_out_channels[0]]
        for level, width in enumerate(config.block_out_channels):
            widths += [width] * (config.layers_per_block + (level + 1 < len(config.block_out_channels)))
        return widths

    def keys_values(self, context: Float[Array, "batch tokens features"]) -> list:
        """What the cross-attentions make of the conditioning: the same at every step, so computed once for all."""
        context = context.astype(self.dtype)
        return [x.keys_values(context) for block in self.blocks() for x in getattr(block, "attentions", ())]

    def blocks(self) -> list[nnx.Module]:
        """The blocks that may have cross-attentions, in the order of `keys_values`."""
        return [*self.down_blocks, self.mid_block]

    def embed_time(self, timesteps: Num[Array, " batch"]) -> Float[Array, "batch features"]:
        config = self.config
        time = timestep_embedding(timesteps, config.block_out_channels[0], config.flip_sin_to_cos, config.freq_shift)
        return self.time_embedding(time.astype(self.dtype))

    def go_down(self, x: Array, time: Array, remaining: Iterator) -> tuple[Array, list[Array]]:
        """The map behind the middle and those of the way down, from the first one, which `conv_in` made.

        `remaining` are the `keys_values`; those of the blocks are taken from it.
        """
        skips = [x]
        for block in self.down_blocks:
            for resnet, attention in block.layers():
                x = resnet(x, time)
                x = attention(x, next(remaining)) if attention else x
                skips.append(x)
            if hasattr(block, "downsample"):
                x = block.downsample(x)
                skips.append(x)
        return self.mid_block(x, time, next(remaining)), skips


class UNet(UNetHalf):
    """Predicts the noise (or v) in noisy latents, conditioned on a timestep and a sequence of embeddings."""

    config: UNetConfig

    def __init__(self, config: UNetConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        super().__init__(config, dtype=dtype, rngs=rngs)
        widths = config.block_out_channels
        options = {"dtype": dtype, "rngs": rngs}
        skips = self.skip_widths
        up_blocks = []
        below = widths[-1]
        for index, name in enumerate(config.up_block_types):
            level = len(widths) - 1 - index
            width = widths[level]
            widths_in = []
            for _ in range(config.layers_per_block + 1):
                widths_in.append(below + skips.pop())
                below = width
            attention = self._attention(level, options) if name.startswith("CrossAttn") else None
            block = UNetStage(widths_in, width, attention, self._resnet(options))
            if level:
                block.upsample = Upsample(width, **options)
            up_blocks.append(block)
        self.up_blocks = nnx.List(up_blocks)

        self.conv_norm_out = group_norm(widths[0], config.norm_num_groups, config.norm_eps, **options)
        self.conv_out = conv(widths[0], config.out_channels, 3, **options)

    def __call__(
        self,
        latents: Float[Array, "batch height width channels"],
        timesteps: Num[Array, " batch"],
        context: Float[Array, "batch tokens features"],
    ) -> Float[Array, "batch height width predicted"]:
        """Noisy latents, timesteps in [0, 1000) and conditioning -> prediction, float32.

        The channels of the latents are `in_channels`, those of the prediction `out_channels`.
        """
        return self.denoise(latents, timesteps, self.keys_values(context))

    def blocks(self) -> list[nnx.Module]:
        return [*super().blocks(), *self.up_blocks]

    def denoise(
        self,
        latents: Float[Array, "batch height width channels"],
        timesteps: Num[Array, " batch"],
        keys_values: list,
        control: ControlResiduals | None = None,
    ) -> Float[Array, "batch height width predicted"]:
        """`__call__` with `keys_values(context)` in place of the context, and with what a ControlNet adds."""
        return self.denoise_deep(latents, timesteps, keys_values, control)[0]

    def denoise_deep(
        self,
        latents: Float[Array, "batch height width channels"],
        timesteps: Num[Array, " batch"],
        keys_values: list,
        control: ControlResiduals | None = None,
    ) -> tuple[Float[Array, "batch height width predicted"], DeepFeatures]:
        """What `denoise` gives, and what `denoise_shallow` takes of it at the steps after this one."""
        self._check_channels(latents)
        remaining = iter(keys_values)
        time = self.embed_time(timesteps)
        x, skips = self.go_down(self.conv_in(latents.astype(self.dtype)), time, remaining)
        if control is not None:
            skips = [skip + added for skip, added in zip(skips, control.skips, strict=True)]
            x = x + control.middle

        deep = x
        for block in self.up_blocks:
            for resnet, attention in block.layers():
                if len(skips) == SHALLOW:
                    deep = x
                x = resnet(jnp.concatenate([x, skips.pop()], axis=-1), time)
                x = attention(x, next(remaining)) if attention else x
            if hasattr(block, "upsample"):
                x = block.upsample(x, skips[-1].shape[1:3])
        return self._predict(x), DeepFeatures(deep, control and control.skips[:SHALLOW])

    def denoise_shallow(
        self,
        latents: Float[Array, "batch height width channels"],
        timesteps: Num[Array, " batch"],
        keys_values: list,
        deep: DeepFeatures,
    ) -> Float[Array, "batch height width predicted"]:
        """`denoise` with the finest layers alone, on the deep features of an earlier step."""
        self._check_channels(latents)
        time = self.embed_time(timesteps)
        x = self.conv_in(latents.astype(self.dtype))
        skips, remaining = [x], iter(keys_values)
        for resnet, attention in islice(self.down_blocks[0].layers(), SHALLOW - 1):
            x = resnet(x, time)
            x = attention(x, next(remaining)) if attention else x
            skips.append(x)
        if deep.control is not None:
            skips = [skip + added for skip, added in zip(skips, deep.control, strict=True)]

        x, remaining = deep.features, iter(keys_values[-SHALLOW:])
        for resnet, attention in list(self.up_blocks[-1].layers())[-SHALLOW:]:
            x = resnet(jnp.concatenate([x, skips.pop()], axis=-1), time)
            x = attention(x, next(remaining)) if attention else x
        return self._predict(x)

    def with_merged_tokens(self, share: float) -> "UNet":
        """A copy whose self-attentions over the finest maps merge this share of the tokens; arrays are shared."""
        merged = nnx.merge(*nnx.split(self))
        for block in (merged.down_blocks[0], merged.up_blocks[-1]):
            for attention in getattr(block, "attentions", ()):
                attention.merged_tokens = share
        return merged

    def _check_channels(self, latents: Array):
        config = self.config
        if latents.shape[-1] != config.in_channels:
            instead = ": it is one for inpainting" if config.in_channels != config.out_channels else ""
            raise ValueError(
                f"latents have {latents.shape[-1]} channels; the U-Net takes {config.in_channels}{instead}"
            )

    def _predict(self, x: Array) -> Array:
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x))).astype(jnp.float32)
