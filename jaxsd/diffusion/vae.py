"""The autoencoder of Stable Diffusion 1.x (Rombach et al., arXiv 2112.10752), diffusers' AutoencoderKL."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxsd.diffusion.layers import Attention, Downsample, ResnetBlock, Upsample, conv, group_norm

EPS = 1e-6  # of every normalization in AutoencoderKL


@dataclass(frozen=True)
class VAEConfig:
    """The fields of `vae/config.json` that Stable Diffusion 1.x sets, under diffusers' names."""

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 4
    norm_num_groups: int = 32
    scaling_factor: float = 0.18215

    # What the modules below are: a checkpoint that says otherwise is another model.
    FIXED = {
        "act_fn": "silu",
        "mid_block_add_attention": True,
        "shift_factor": None,
        "use_post_quant_conv": True,
        "use_quant_conv": True,
    }

    def __post_init__(self):
        if self.layers_per_block < 1 or self.latent_channels < 1 or self.norm_num_groups < 1:
            raise ValueError("layers_per_block, latent_channels and norm_num_groups must be 1 or more")
        if any(width < 1 or width % self.norm_num_groups for width in self.block_out_channels):
            raise ValueError(
                f"block_out_channels is {list(self.block_out_channels)}; allowed: multiples of norm_num_groups, "
                f"{self.norm_num_groups}"
            )
        if not self.scaling_factor > 0:
            raise ValueError(f"scaling_factor is {self.scaling_factor}; allowed: above 0")

    @property
    def factor(self) -> int:
        """Pixels per latent along a side."""
        return 2 ** (len(self.block_out_channels) - 1)


class Gaussian(NamedTuple):
    """A diagonal Gaussian over latents, (batch, height / factor, width / factor, latent_channels) each."""

    mean: jax.Array
    log_variance: jax.Array

    def sample(self, key: jax.Array) -> jax.Array:
        return self.mean + jnp.exp(0.5 * self.log_variance) * jax.random.normal(key, self.mean.shape)

    def kl(self) -> jax.Array:
        """KL divergence to the standard normal per sample, (batch,), nats."""
        terms = self.mean**2 + jnp.exp(self.log_variance) - 1 - self.log_variance
        return 0.5 * terms.sum(axis=(1, 2, 3))


class AttentionBlock(nnx.Module):
    """Single-head self-attention over the positions of a feature map, residual."""

    def __init__(self, features, groups, *, dtype, rngs):
        self.group_norm = group_norm(features, groups, EPS, dtype=dtype, rngs=rngs)
        self.attention = Attention(features, features, heads=1, bias=True, dtype=dtype, rngs=rngs)

    def __call__(self, x):
        h = self.group_norm(x).reshape(x.shape[0], -1, x.shape[-1])
        return x + self.attention(h).reshape(x.shape)


class VAEMidBlock(nnx.Module):
    def __init__(self, features, groups, resnet, *, dtype, rngs):
        self.resnets = nnx.List([resnet(features, features) for _ in range(2)])
        self.attentions = nnx.List([AttentionBlock(features, groups, dtype=dtype, rngs=rngs)])

    def __call__(self, x):
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class VAEStage(nnx.Module):
    """Residual blocks at one resolution."""

    downsample: Downsample
    upsample: Upsample

    def __init__(self, features_in, features, layers, resnet):
        self.resnets = nnx.List([resnet(features_in if i == 0 else features, features) for i in range(layers)])

    def __call__(self, x):
        for resnet in self.resnets:
            x = resnet(x)
        return x


class Encoder(nnx.Module):
    def __init__(self, config: VAEConfig, resnet, *, dtype, rngs):
        widths, groups = config.block_out_channels, config.norm_num_groups
        options = {"dtype": dtype, "rngs": rngs}
        self.conv_in = conv(config.in_channels, widths[0], 3, **options)
        blocks = []
        for level, width in enumerate(widths):
            block = VAEStage(widths[max(level - 1, 0)], width, config.layers_per_block, resnet)
            if level + 1 < len(widths):
                block.downsample = Downsample(width, asymmetric=True, **options)
            blocks.append(block)
        self.down_blocks = nnx.List(blocks)
        self.mid_block = VAEMidBlock(widths[-1], groups, resnet, **options)
        self.conv_norm_out = group_norm(widths[-1], groups, EPS, **options)
        self.conv_out = conv(widths[-1], 2 * config.latent_channels, 3, **options)

    def __call__(self, x):
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
            if hasattr(block, "downsample"):
                x = block.downsample(x)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nnx.Module):
    def __init__(self, config: VAEConfig, resnet, *, dtype, rngs):
        widths, groups = config.block_out_channels[::-1], config.norm_num_groups
        options = {"dtype": dtype, "rngs": rngs}
        self.conv_in = conv(config.latent_channels, widths[0], 3, **options)
        self.mid_block = VAEMidBlock(widths[0], groups, resnet, **options)
        blocks = []
        for level, width in enumerate(widths):
            block = VAEStage(widths[max(level - 1, 0)], width, config.layers_per_block + 1, resnet)
            if level + 1 < len(widths):
                block.upsample = Upsample(width, **options)
            blocks.append(block)
        self.up_blocks = nnx.List(blocks)
        self.conv_norm_out = group_norm(widths[-1], groups, EPS, **options)
        self.conv_out = conv(widths[-1], config.out_channels, 3, **options)

    def __call__(self, z):
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x = block(x)
            if hasattr(block, "upsample"):
                x = block.upsample(x)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))


class VAE(nnx.Module):
    """Maps images in [-1, 1] to a Gaussian over latents, and latents back to images.

    Neither direction applies `config.scaling_factor`: the pipeline does.
    """

    def __init__(self, config: VAEConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        self.config = config
        self.dtype = dtype
        options = {"dtype": dtype, "rngs": rngs}
        resnet = partial(ResnetBlock, time_features=0, groups=config.norm_num_groups, eps=EPS, **options)
        channels = config.latent_channels
        self.encoder = Encoder(config, resnet, **options)
        self.quant_conv = conv(2 * channels, 2 * channels, 1, **options)
        self.post_quant_conv = conv(channels, channels, 1, **options)
        self.decoder = Decoder(config, resnet, **options)

    def encode(self, images: Float[Array, "batch height width 3"]) -> Gaussian:
        moments = self.quant_conv(self.encoder(images.astype(self.dtype))).astype(jnp.float32)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return Gaussian(mean, jnp.clip(log_variance, -30, 20))

    def decode(
        self, latents: Float[Array, "batch latent_height latent_width channels"]
    ) -> Float[Array, "batch height width 3"]:
        return self.decoder(self.post_quant_conv(latents.astype(self.dtype))).astype(jnp.float32)
