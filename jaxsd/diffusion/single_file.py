"""Stable Diffusion 1.x in one file, under the names of its first code <-> `jaxsd.diffusion` and `jaxsd.clip`.

That code (github.com/CompVis/latent-diffusion) numbers the U-Net's blocks in one row, so the table is made for a
config. Our names begin with `unet.`, `vae.` and `text_encoder.`.
"""

from jaxsd.clip.params import tower
from jaxsd.diffusion.unet import UNetConfig
from jaxsd.pretrained.mapping import Rule, module

NUMBER = r"\d+"

# What training leaves in a file beside the model.
IGNORE = (
    r"model_ema\..+",  # the moving average, under names without dots
    r"(sqrt_|log_)?(one_minus_|recip_|recipm1_)?alphas_cumprod(_prev)?",
    r"betas|logvar|lvlb_weights|scale_factor|posterior_\w+",
    r"first_stage_model\.(loss|model_ema)\..+",
    r"cond_stage_model\.transformer\.(text_model\.)?embeddings\.position_ids",
    r"cond_stage_model\.(transformer\.)?(logit_scale|text_projection(\.weight)?)",
    r"embedding_manager\..+",
)


def rules(unet: UNetConfig, levels: int) -> tuple[Rule, ...]:
    """The table for this U-Net and a VAE of so many `levels`."""
    return (
        *unet_rules(unet, "model.diffusion_model.", "unet."),
        *vae_rules(levels, "first_stage_model.", "vae."),
        *tower("cond_stage_model.transformer.text_model.", "text_encoder."),
        *tower("cond_stage_model.transformer.", "text_encoder."),  # as saved with transformers 5
    )


def unet_rules(config: UNetConfig, there: str, here: str) -> tuple[Rule, ...]:
    """The U-Net's rules; all names begin with `there` in the file and `here` in our parameters."""
    table = [
        *module(f"{there}time_embed.0", f"{here}time_embedding.linear_1", "linear"),
        *module(f"{there}time_embed.2", f"{here}time_embedding.linear_2", "linear"),
        *module(f"{there}input_blocks.0.0", f"{here}conv_in", "conv2d"),
        *_resnet(f"{there}middle_block.0", f"{here}mid_block.resnets.0"),
        *_transformer(f"{there}middle_block.1", f"{here}mid_block.attentions.0"),
        *_resnet(f"{there}middle_block.2", f"{here}mid_block.resnets.1"),
        *module(f"{there}out.0", f"{here}conv_norm_out", "norm"),
        *module(f"{there}out.2", f"{here}conv_out", "conv2d"),
    ]
    number = 0
    for level in range(len(config.down_block_types)):
        for layer in range(config.layers_per_block):
            number += 1
            block, stage = f"{there}input_blocks.{number}", f"{here}down_blocks.{level}"
            table += _resnet(f"{block}.0", f"{stage}.resnets.{layer}")
            table += _transformer(f"{block}.1", f"{stage}.attentions.{layer}")
        number += 1
        table += module(f"{there}input_blocks.{number}.0.op", f"{here}down_blocks.{level}.downsample.conv", "conv2d")
    number = 0
    for level, kind in enumerate(config.up_block_types):
        for layer in range(config.layers_per_block + 1):
            block, stage = f"{there}output_blocks.{number}", f"{here}up_blocks.{level}"
            table += _resnet(f"{block}.0", f"{stage}.resnets.{layer}")
            table += _transformer(f"{block}.1", f"{stage}.attentions.{layer}")
            number += 1
        last = 2 if kind.startswith("CrossAttn") else 1  # in its stage's last block, after what else is there
        table += module(f"{block}.{last}.conv", f"{stage}.upsample.conv", "conv2d")
    return tuple(table)


def vae_rules(levels: int, there: str, here: str) -> tuple[Rule, ...]:
    """The VAE's rules; the decoder's levels are numbered from the finest there, from the coarsest here."""
    table = [*module(f"{there}{{name}}", f"{here}{{name}}", "conv2d", name="quant_conv|post_quant_conv")]
    for half in ("encoder.", "decoder."):
        source, target = f"{there}{half}", f"{here}{half}"
        table += module(f"{source}{{name}}", f"{target}{{name}}", "conv2d", name="conv_in|conv_out")
        table += module(f"{source}norm_out", f"{target}conv_norm_out", "norm")
        for number in range(2):
            table += _vae_resnet(f"{source}mid.block_{number + 1}", f"{target}mid_block.resnets.{number}")
        table += _vae_attention(f"{source}mid.attn_1", f"{target}mid_block.attentions.0")
    for level in range(levels):
        down, up = f"{there}encoder.down.{level}", f"{there}decoder.up.{levels - 1 - level}"
        down_block, up_block = f"{here}encoder.down_blocks.{level}", f"{here}decoder.up_blocks.{level}"
        table += _vae_resnet(f"{down}.block.{{n}}", f"{down_block}.resnets.{{n}}", n=NUMBER)
        table += module(f"{down}.downsample.conv", f"{down_block}.downsample.conv", "conv2d")
        table += _vae_resnet(f"{up}.block.{{n}}", f"{up_block}.resnets.{{n}}", n=NUMBER)
        table += module(f"{up}.upsample.conv", f"{up_block}.upsample.conv", "conv2d")
    return tuple(table)


def _resnet(there: str, here: str) -> tuple[Rule, ...]:
    return (
        *module(f"{there}.in_layers.0", f"{here}.norm1", "norm"),
        *module(f"{there}.in_layers.2", f"{here}.conv1", "conv2d"),
        *module(f"{there}.emb_layers.1", f"{here}.time_emb_proj", "linear"),
        *module(f"{there}.out_layers.0", f"{here}.norm2", "norm"),
        *module(f"{there}.out_layers.3", f"{here}.conv2", "conv2d"),
        *module(f"{there}.skip_connection", f"{here}.conv_shortcut", "conv2d"),
    )


def _transformer(there: str, here: str) -> tuple[Rule, ...]:
    inner = ".transformer_blocks.0."
    return (
        *module(f"{there}.norm", f"{here}.norm", "norm"),
        *module(f"{there}.{{name}}", f"{here}.{{name}}", "conv2d", name="proj_in|proj_out"),
        *module(f"{there}{inner}{{name}}", f"{here}{inner}{{name}}", "norm", name="norm[123]"),
        *module(f"{there}{inner}{{name}}", f"{here}{inner}{{name}}", "linear", name=r"attn[12]\.to_[qkv]"),
        *module(f"{there}{inner}{{name}}.to_out.0", f"{here}{inner}{{name}}.to_out", "linear", name="attn[12]"),
        *module(f"{there}{inner}ff.net.0.proj", f"{here}{inner}ff.proj", "linear"),
        *module(f"{there}{inner}ff.net.2", f"{here}{inner}ff.out", "linear"),
    )


def _vae_resnet(there: str, here: str, **where: str) -> tuple[Rule, ...]:
    return (
        *module(f"{there}.{{name}}", f"{here}.{{name}}", "norm", name="norm[12]", **where),
        *module(f"{there}.{{name}}", f"{here}.{{name}}", "conv2d", name="conv[12]", **where),
        *module(f"{there}.nin_shortcut", f"{here}.conv_shortcut", "conv2d", **where),
    )


def _vae_attention(there: str, here: str) -> tuple[Rule, ...]:
    return (
        *module(f"{there}.norm", f"{here}.group_norm", "norm"),
        *module(f"{there}.{{name}}", f"{here}.attention.to_{{name}}", "conv1x1", name="[qkv]"),
        *module(f"{there}.proj_out", f"{here}.attention.to_out", "conv1x1"),
    )
