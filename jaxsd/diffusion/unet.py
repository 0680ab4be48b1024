"""The U-Net of Stable Diffusion 1.x (Rombach et al., arXiv 2112.10752), diffusers' UNet2DConditionModel."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Num

from jaxsd.diffusion.layers import Attention, Downsample, ResnetBlock, Upsample, conv, group_norm, remat_where_asked

BLOCK_TYPES = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}


@dataclass(frozen=True)
class UNetConfig:
    """The fields of `unet/config.json` that Stable Diffusion 1.x sets, under diffusers' names.

    `attention_head_dim` is the number of heads: diffusers kept the wrong name for its checkpoints' sake.
    """

    sample_size: int = 64
    in_channels: int = 4
    out_channels: int = 4
    down_block_types: tuple[str, ...] = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    up_block_types: tuple[str, ...] = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3
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
        "center_input_sample": False,
        "class_embed_type": None,
        "downsample_padding": 1,
        "dual_cross_attention": False,
        "encoder_hid_dim": None,
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "num_attention_heads": None,
        "only_cross_attention": False,
        "resnet_time_scale_shift": "default",
        "time_embedding_type": "positional",
        "transformer_layers_per_block": 1,
        "use_linear_projection": False,
    }

    def __post_init__(self):
        levels = len(self.block_out_channels)
        for name, choices in BLOCK_TYPES.items():
            types = getattr(self, name)
            if len(types) != levels or not set(types) <= set(choices):
                raise ValueError(f"{name} is {list(types)}; allowed: {levels} of {', '.join(choices)}")
        dims = self.attention_head_dim
        if not isinstance(dims, int) and len(dims) != levels:
            raise ValueError(f"attention_head_dim is {list(dims)}; allowed: one for all or {levels}")
        if self.layers_per_block < 1 or self.sample_size < 1 or self.norm_num_groups < 1:
            raise ValueError("layers_per_block, sample_size and norm_num_groups must be 1 or more")
        for level, width in enumerate(self.block_out_channels):
            if width < 1 or width % self.norm_num_groups or self.heads(level) < 1 or width % self.heads(level):
                raise ValueError(
                    f"block_out_channels has {width}; allowed: multiples of norm_num_groups, {self.norm_num_groups}, "
                    f"and of attention_head_dim, {self.heads(level)}"
                )

    def heads(self, level: int) -> int:
        dims = self.attention_head_dim
        return dims if isinstance(dims, int) else dims[level]


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

    def __call__(self, x, keys_values):
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), keys_values)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nnx.Module):
    """A transformer block over the positions of a feature map, residual."""

    def __init__(self, features, context_features, heads, groups, *, dtype, rngs):
        self.remat = False
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
        for block, pair in zip(self.transformer_blocks, keys_values, strict=True):
            h = block(h, pair)
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


class UNet(nnx.Module):
    """Predicts the noise (or v) in noisy latents, conditioned on a timestep and a sequence of embeddings."""

    def __init__(self, config: UNetConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        self.config = config
        self.dtype = dtype
        widths = config.block_out_channels
        time_features = 4 * widths[0]
        groups, eps = config.norm_num_groups, config.norm_eps
        options = {"dtype": dtype, "rngs": rngs}

        def resnet(features_in, features_out):
            return ResnetBlock(features_in, features_out, time_features, groups, eps, **options)

        def attention(level):
            return lambda features: SpatialTransformer(
                features, config.cross_attention_dim, config.heads(level), groups, **options
            )

        self.conv_in = conv(config.in_channels, widths[0], 3, **options)
        self.time_embedding = TimeEmbedding(widths[0], time_features, **options)

        skips = [widths[0]]
        down_blocks = []
        for level, (name, width) in enumerate(zip(config.down_block_types, widths, strict=True)):
            widths_in = [skips[-1]] + [width] * (config.layers_per_block - 1)
            block = UNetStage(widths_in, width, attention(level) if name.startswith("CrossAttn") else None, resnet)
            skips += [width] * config.layers_per_block
            if level + 1 < len(widths):
                block.downsample = Downsample(width, **options)
                skips.append(width)
            down_blocks.append(block)
        self.down_blocks = nnx.List(down_blocks)

        self.mid_block = UNetMidBlock(widths[-1], attention(len(widths) - 1), resnet)

        up_blocks = []
        below = widths[-1]
        for index, name in enumerate(config.up_block_types):
            level = len(widths) - 1 - index
            width = widths[level]
            widths_in = []
            for _ in range(config.layers_per_block + 1):
                widths_in.append(below + skips.pop())
                below = width
            block = UNetStage(widths_in, width, attention(level) if name.startswith("CrossAttn") else None, resnet)
            if level:
                block.upsample = Upsample(width, **options)
            up_blocks.append(block)
        self.up_blocks = nnx.List(up_blocks)

        self.conv_norm_out = group_norm(widths[0], groups, eps, **options)
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

    def keys_values(self, context: Float[Array, "batch tokens features"]) -> list:
        """What the cross-attentions make of the conditioning: the same at every step, so computed once for all."""
        context = context.astype(self.dtype)
        blocks = (*self.down_blocks, self.mid_block, *self.up_blocks)
        return [x.keys_values(context) for block in blocks for x in getattr(block, "attentions", ())]

    def denoise(
        self,
        latents: Float[Array, "batch height width channels"],
        timesteps: Num[Array, " batch"],
        keys_values: list,
    ) -> Float[Array, "batch height width predicted"]:
        """`__call__` with `keys_values(context)` in place of the context."""
        config = self.config
        if latents.shape[-1] != config.in_channels:
            instead = ": it is one for inpainting" if config.in_channels != config.out_channels else ""
            raise ValueError(
                f"latents have {latents.shape[-1]} channels; the U-Net takes {config.in_channels}{instead}"
            )
        remaining = iter(keys_values)
        time = timestep_embedding(timesteps, config.block_out_channels[0], config.flip_sin_to_cos, config.freq_shift)
        time = self.time_embedding(time.astype(self.dtype))

        x = self.conv_in(latents.astype(self.dtype))
        skips = [x]
        for block in self.down_blocks:
            for resnet, attention in block.layers():
                x = resnet(x, time)
                x = attention(x, next(remaining)) if attention else x
                skips.append(x)
            if hasattr(block, "downsample"):
                x = block.downsample(x)
                skips.append(x)

        x = self.mid_block(x, time, next(remaining))

        for block in self.up_blocks:
            for resnet, attention in block.layers():
                x = resnet(jnp.concatenate([x, skips.pop()], axis=-1), time)
                x = attention(x, next(remaining)) if attention else x
            if hasattr(block, "upsample"):
                x = block.upsample(x, skips[-1].shape[1:3])

        return self.conv_out(jax.nn.silu(self.conv_norm_out(x))).astype(jnp.float32)
