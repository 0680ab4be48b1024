"""Stable Diffusion 1.x in one file, under the names of its first code <-> `jaxsd.diffusion` and `jaxsd.clip`.

That code (github.com/CompVis/latent-diffusion) numbers the blocks of the U-Net in one row, so the mapping is made for a
config. Our names begin with `unet.`, `vae.` and `text_encoder.`.
"""

from jaxsd.clip.params import tower
from jaxsd.diffusion.unet import UNetConfig, UNetHalfConfig
from jaxsd.pretrained.mapping import Rule, module

NUMBER = r"\d+"

# Names in a file that training leaves beside the model.
SINGLE_FILE_IGNORED = (
    r"model_ema\..+",  # the moving average, under names without dots
    r"(sqrt_|log_)?(one_minus_|recip_|recipm1_)?alphas_cumprod(_prev)?",
    r"betas|logvar|lvlb_weights|scale_factor|posterior_\w+",
    r"first_stage_model\.(loss|model_ema)\..+",
    r"cond_stage_model\..*position_ids",
    r"cond_stage_model\.(transformer\.)?(logit_scale|text_projection(\.weight)?)",
    r"embedding_manager\..+",
)


# The component whose names begin so.
PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.transformer.",
}


def single_file_mapping(unet: UNetConfig, levels: int) -> tuple[Rule, ...]:
    """The mapping for a U-Net of this config and a VAE of so many `levels`."""
    return (
        *unet_mapping(unet, PREFIXES["unet"], "unet."),
        *vae_mapping(levels, PREFIXES["vae"], "vae."),
        *tower(f"{PREFIXES['text_encoder']}text_model.", "text_encoder."),
        *tower(PREFIXES["text_encoder"], "text_encoder."),  # as saved with transformers 5
    )


def half_mapping(config: UNetHalfConfig, source: str, target: str) -> tuple[Rule, ...]:
    """The rules of the U-Net's half on the way down. Names begin with `source` in the file, and with `target` here."""
    mapping = [
        *module(f"{source}time_embed.0", f"{target}time_embedding.linear_1", "linear"),
        *module(f"{source}time_embed.2", f"{target}time_embedding.linear_2", "linear"),
        *module(f"{source}input_blocks.0.0", f"{target}conv_in", "conv2d"),
        *_resnet(f"{source}middle_block.0", f"{target}mid_block.resnets.0"),
        *_transformer(f"{source}middle_block.1", f"{target}mid_block.attentions.0"),
        *_resnet(f"{source}middle_block.2", f"{target}mid_block.resnets.1"),
    ]
    number = 0
    for level in range(len(config.down_block_types)):
        for layer in range(config.layers_per_block):
            number += 1
            block, stage = f"{source}input_blocks.{number}", f"{target}down_blocks.{level}"
            mapping += _resnet(f"{block}.0", f"{stage}.resnets.{layer}")
            mapping += _transformer(f"{block}.1", f"{stage}.attentions.{layer}")
        number += 1
        mapping += module(
            f"{source}input_blocks.{number}.0.op", f"{target}down_blocks.{level}.downsample.conv", "conv2d"
        )
    return tuple(mapping)


def unet_mapping(config: UNetConfig, source: str, target: str) -> tuple[Rule, ...]:
    """The rules of the U-Net. All names begin with `source` in the file and with `target` in our parameters."""
    mapping = [
        *half_mapping(config, source, target),
        *module(f"{source}out.0", f"{target}conv_norm_out", "norm"),
        *module(f"{source}out.2", f"{target}conv_out", "conv2d"),
    ]
    number = 0
    for level, name in enumerate(config.up_block_types):
        for layer in range(config.layers_per_block + 1):
            block, stage = f"{source}output_blocks.{number}", f"{target}up_blocks.{level}"
            mapping += _resnet(f"{block}.0", f"{stage}.resnets.{layer}")
            mapping += _transformer(f"{block}.1", f"{stage}.attentions.{layer}")
            number += 1
        last = 2 if name.startswith("CrossAttn") else 1  # in its stage's last block, after everything else
        mapping += module(f"{block}.{last}.conv", f"{stage}.upsample.conv", "conv2d")
    return tuple(mapping)


def vae_mapping(levels: int, source: str, target: str) -> tuple[Rule, ...]:
    """The rules of the VAE. The file numbers the decoder's levels from the finest, we number them from the coarsest."""
    mapping = [*module(f"{source}{{name}}", f"{target}{{name}}", "conv2d", name="quant_conv|post_quant_conv")]
    for half in ("encoder.", "decoder."):
        old, new = f"{source}{half}", f"{target}{half}"
        mapping += module(f"{old}{{name}}", f"{new}{{name}}", "conv2d", name="conv_in|conv_out")
        mapping += module(f"{old}norm_out", f"{new}conv_norm_out", "norm")
        for number in range(2):
            mapping += _vae_resnet(f"{old}mid.block_{number + 1}", f"{new}mid_block.resnets.{number}")
        mapping += _vae_attention(f"{old}mid.attn_1", f"{new}mid_block.attentions.0")
    for level in range(levels):
        down, up = f"{source}encoder.down.{level}", f"{source}decoder.up.{levels - 1 - level}"
        down_block, up_block = f"{target}encoder.down_blocks.{level}", f"{target}decoder.up_blocks.{level}"
        mapping += _vae_resnet(f"{down}.block.{{n}}", f"{down_block}.resnets.{{n}}", n=NUMBER)
        mapping += module(f"{down}.downsample.conv", f"{down_block}.downsample.conv", "conv2d")
        mapping += _vae_resnet(f"{up}.block.{{n}}", f"{up_block}.resnets.{{n}}", n=NUMBER)
        mapping += module(f"{up}.upsample.conv", f"{up_block}.upsample.conv", "conv2d")
    return tuple(mapping)


def _resnet(source: str, target: str) -> tuple[Rule, ...]:
    return (
        *module(f"{source}.in_layers.0", f"{target}.norm1", "norm"),
        *module(f"{source}.in_layers.2", f"{target}.conv1", "conv2d"),
        *module(f"{source}.emb_layers.1", f"{target}.time_emb_proj", "linear"),
        *module(f"{source}.out_layers.0", f"{target}.norm2", "norm"),
        *module(f"{source}.out_layers.3", f"{target}.conv2", "conv2d"),
        *module(f"{source}.skip_connection", f"{target}.conv_shortcut", "conv2d"),
    )


def _transformer(source: str, target: str) -> tuple[Rule, ...]:
    inner = ".transformer_blocks.0."
    return (
        *module(f"{source}.norm", f"{target}.norm", "norm"),
        *module(f"{source}.{{name}}", f"{target}.{{name}}", "conv2d", name="proj_in|proj_out"),
        *module(f"{source}{inner}{{name}}", f"{target}{inner}{{name}}", "norm", name="norm[123]"),
        *module(f"{source}{inner}{{name}}", f"{target}{inner}{{name}}", "linear", name=r"attn[12]\.to_[qkv]"),
        *module(f"{source}{inner}{{name}}.to_out.0", f"{target}{inner}{{name}}.to_out", "linear", name="attn[12]"),
        *module(f"{source}{inner}ff.net.0.proj", f"{target}{inner}ff.proj", "linear"),
        *module(f"{source}{inner}ff.net.2", f"{target}{inner}ff.out", "linear"),
    )


def _vae_resnet(source: str, target: str, **where: str) -> tuple[Rule, ...]:
    return (
        *module(f"{source}.{{name}}", f"{target}.{{name}}", "norm", name="norm[12]", **where),
        *module(f"{source}.{{name}}", f"{target}.{{name}}", "conv2d", name="conv[12]", **where),
        *module(f"{source}.nin_shortcut", f"{target}.conv_shortcut", "conv2d", **where),
    )


def _vae_attention(source: str, target: str) -> tuple[Rule, ...]:
    return (
        *module(f"{source}.norm", f"{target}.group_norm", "norm"),
        *module(f"{source}.{{name}}", f"{target}.attention.to_{{name}}", "conv1x1", name="[qkv]"),
        *module(f"{source}.proj_out", f"{target}.attention.to_out", "conv1x1"),
        # As some files have it that diffusers wrote in part.
        *module(f"{source}.group_norm", f"{target}.group_norm", "norm"),
        *module(f"{source}.{{name}}", f"{target}.attention.{{name}}", "conv1x1", name="to_[qkv]"),
        *module(f"{source}.to_out.0", f"{target}.attention.to_out", "conv1x1"),
    )
