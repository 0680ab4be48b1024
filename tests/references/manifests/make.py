"""Write the manifests: the keys and shapes of Stable Diffusion 1.5's and CLIP ViT-L/14's published checkpoints.

    python -m tests.references.manifests.make

The Hugging Face folders' come from PyTorch diffusers and transformers at the published configs, on the meta device.
The single file's are listed below after the modules of the first code (github.com/CompVis/latent-diffusion,
ldm/modules/diffusionmodules), without the project's own table, and diffusers' reader of such files must turn them into
the folder's.
"""

import json
from collections.abc import Mapping

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPVisionConfig

from tests.references.manifests import HERE

Shapes = dict[str, tuple[int, ...]]

# The published config.json, where the classes' defaults say otherwise.
UNET = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
VAE = {
    "sample_size": 512,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
}

# Buffers that the published files hold and today's classes do not save.
TEXT_BUFFERS = {"text_model.embeddings.position_ids": (1, 77)}
CLIP_BUFFERS = TEXT_BUFFERS | {"vision_model.embeddings.position_ids": (1, 257)}
NOISE_SCHEDULE = (
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "betas",
    "log_one_minus_alphas_cumprod",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "posterior_variance",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
)


def shapes(module: torch.nn.Module) -> Shapes:
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def pair(name: str, weight: tuple[int, ...]) -> Shapes:
    """A layer's weight and bias."""
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def conv(name: str, features_in: int, features: int, size: int = 3) -> Shapes:
    return pair(name, (features, features_in, size, size))


def resblock(name: str, features_in: int, features: int) -> Shapes:
    """openaimodel.ResBlock"""
    return {
        **pair(f"{name}.in_layers.0", (features_in,)),
        **conv(f"{name}.in_layers.2", features_in, features),
        **pair(f"{name}.emb_layers.1", (features, 1280)),
        **pair(f"{name}.out_layers.0", (features,)),
        **conv(f"{name}.out_layers.3", features, features),
        **(conv(f"{name}.skip_connection", features_in, features, 1) if features_in != features else {}),
    }


def spatial_transformer(name: str, features: int) -> Shapes:
    """attention.SpatialTransformer"""
    block = f"{name}.transformer_blocks.0"
    listed = {
        **pair(f"{name}.norm", (features,)),
        **conv(f"{name}.proj_in", features, features, 1),
        **pair(f"{block}.ff.net.0.proj", (8 * features, features)),
        **pair(f"{block}.ff.net.2", (features, 4 * features)),
        **conv(f"{name}.proj_out", features, features, 1),
    }
    for attention, context in (("attn1", features), ("attn2", 768)):
        listed[f"{block}.{attention}.to_q.weight"] = (features, features)
        listed[f"{block}.{attention}.to_k.weight"] = (features, context)
        listed[f"{block}.{attention}.to_v.weight"] = (features, context)
        listed |= pair(f"{block}.{attention}.to_out.0", (features, features))
    for norm in ("norm1", "norm2", "norm3"):
        listed |= pair(f"{block}.{norm}", (features,))
    return listed


def ldm_unet() -> Shapes:
    """openaimodel.UNetModel with model_channels 320, channel_mult 1, 2, 4, 4 and attention at 1, 2 and 4."""
    return {
        **pair("time_embed.0", (1280, 320)),
        **pair("time_embed.2", (1280, 1280)),
        **conv("input_blocks.0.0", 4, 320),
        **resblock("input_blocks.1.0", 320, 320),
        **spatial_transformer("input_blocks.1.1", 320),
        **resblock("input_blocks.2.0", 320, 320),
        **spatial_transformer("input_blocks.2.1", 320),
        **conv("input_blocks.3.0.op", 320, 320),
        **resblock("input_blocks.4.0", 320, 640),
        **spatial_transformer("input_blocks.4.1", 640),
        **resblock("input_blocks.5.0", 640, 640),
        **spatial_transformer("input_blocks.5.1", 640),
        **conv("input_blocks.6.0.op", 640, 640),
        **resblock("input_blocks.7.0", 640, 1280),
        **spatial_transformer("input_blocks.7.1", 1280),
        **resblock("input_blocks.8.0", 1280, 1280),
        **spatial_transformer("input_blocks.8.1", 1280),
        **conv("input_blocks.9.0.op", 1280, 1280),
        **resblock("input_blocks.10.0", 1280, 1280),
        **resblock("input_blocks.11.0", 1280, 1280),
        **resblock("middle_block.0", 1280, 1280),
        **spatial_transformer("middle_block.1", 1280),
        **resblock("middle_block.2", 1280, 1280),
        **resblock("output_blocks.0.0", 2560, 1280),
        **resblock("output_blocks.1.0", 2560, 1280),
        **resblock("output_blocks.2.0", 2560, 1280),
        **conv("output_blocks.2.1.conv", 1280, 1280),
        **resblock("output_blocks.3.0", 2560, 1280),
        **spatial_transformer("output_blocks.3.1", 1280),
        **resblock("output_blocks.4.0", 2560, 1280),
        **spatial_transformer("output_blocks.4.1", 1280),
        **resblock("output_blocks.5.0", 1920, 1280),
        **spatial_transformer("output_blocks.5.1", 1280),
        **conv("output_blocks.5.2.conv", 1280, 1280),
        **resblock("output_blocks.6.0", 1920, 640),
        **spatial_transformer("output_blocks.6.1", 640),
        **resblock("output_blocks.7.0", 1280, 640),
        **spatial_transformer("output_blocks.7.1", 640),
        **resblock("output_blocks.8.0", 960, 640),
        **spatial_transformer("output_blocks.8.1", 640),
        **conv("output_blocks.8.2.conv", 640, 640),
        **resblock("output_blocks.9.0", 960, 320),
        **spatial_transformer("output_blocks.9.1", 320),
        **resblock("output_blocks.10.0", 640, 320),
        **spatial_transformer("output_blocks.10.1", 320),
        **resblock("output_blocks.11.0", 640, 320),
        **spatial_transformer("output_blocks.11.1", 320),
        **pair("out.0", (320,)),
        **conv("out.2", 320, 4),
    }


def resnet_block(name: str, features_in: int, features: int) -> Shapes:
    """model.ResnetBlock"""
    return {
        **pair(f"{name}.norm1", (features_in,)),
        **conv(f"{name}.conv1", features_in, features),
        **pair(f"{name}.norm2", (features,)),
        **conv(f"{name}.conv2", features, features),
        **(conv(f"{name}.nin_shortcut", features_in, features, 1) if features_in != features else {}),
    }


def ldm_middle(name: str) -> Shapes:
    listed = {**resnet_block(f"{name}.block_1", 512, 512), **pair(f"{name}.attn_1.norm", (512,))}
    for layer in ("q", "k", "v", "proj_out"):
        listed |= conv(f"{name}.attn_1.{layer}", 512, 512, 1)
    return {**listed, **resnet_block(f"{name}.block_2", 512, 512)}


def ldm_vae() -> Shapes:
    """autoencoder.AutoencoderKL with ch 128, ch_mult 1, 2, 4, 4, z_channels 4 and double_z."""
    return {
        **conv("encoder.conv_in", 3, 128),
        **resnet_block("encoder.down.0.block.0", 128, 128),
        **resnet_block("encoder.down.0.block.1", 128, 128),
        **conv("encoder.down.0.downsample.conv", 128, 128),
        **resnet_block("encoder.down.1.block.0", 128, 256),
        **resnet_block("encoder.down.1.block.1", 256, 256),
        **conv("encoder.down.1.downsample.conv", 256, 256),
        **resnet_block("encoder.down.2.block.0", 256, 512),
        **resnet_block("encoder.down.2.block.1", 512, 512),
        **conv("encoder.down.2.downsample.conv", 512, 512),
        **resnet_block("encoder.down.3.block.0", 512, 512),
        **resnet_block("encoder.down.3.block.1", 512, 512),
        **ldm_middle("encoder.mid"),
        **pair("encoder.norm_out", (512,)),
        **conv("encoder.conv_out", 512, 8),
        **conv("decoder.conv_in", 4, 512),
        **ldm_middle("decoder.mid"),
        **{k: v for block in range(3) for k, v in resnet_block(f"decoder.up.3.block.{block}", 512, 512).items()},
        **conv("decoder.up.3.upsample.conv", 512, 512),
        **{k: v for block in range(3) for k, v in resnet_block(f"decoder.up.2.block.{block}", 512, 512).items()},
        **conv("decoder.up.2.upsample.conv", 512, 512),
        **resnet_block("decoder.up.1.block.0", 512, 256),
        **resnet_block("decoder.up.1.block.1", 256, 256),
        **resnet_block("decoder.up.1.block.2", 256, 256),
        **conv("decoder.up.1.upsample.conv", 256, 256),
        **resnet_block("decoder.up.0.block.0", 256, 128),
        **resnet_block("decoder.up.0.block.1", 128, 128),
        **resnet_block("decoder.up.0.block.2", 128, 128),
        **pair("decoder.norm_out", (128,)),
        **conv("decoder.conv_out", 128, 3),
        **conv("quant_conv", 8, 8, 1),
        **conv("post_quant_conv", 4, 4, 1),
    }


def prefixed(prefix: str, listed: Shapes) -> Shapes:
    return {prefix + key: shape for key, shape in listed.items()}


def on_meta(listed: Shapes) -> dict[str, torch.Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in listed.items()}


def same(read: Mapping[str, torch.Tensor], folder: Shapes) -> None:
    got = {key: tuple(value.shape) for key, value in read.items()}
    assert got == folder, sorted(got.items() ^ folder.items())[:10]


def main():
    with torch.device("meta"):
        unet_model, vae_model = UNet2DConditionModel(**UNET), AutoencoderKL(**VAE)
        text_model = CLIPTextModel(CLIPTextConfig(**TEXT))
        clip_model = CLIPModel(
            CLIPConfig(
                text_config=CLIPTextConfig(**TEXT, projection_dim=768).to_dict(),
                vision_config=CLIPVisionConfig(**VISION, projection_dim=768).to_dict(),
                projection_dim=768,
            )
        )
    unet, vae, clip = shapes(unet_model), shapes(vae_model), shapes(clip_model) | CLIP_BUFFERS
    # transformers 5 names the text tower alone without the prefix that the published file has
    text = {f"text_model.{key.removeprefix('text_model.')}": shape for key, shape in shapes(text_model).items()}
    text |= TEXT_BUFFERS

    ldm = {
        **prefixed("model.diffusion_model.", ldm_unet()),
        **prefixed("first_stage_model.", ldm_vae()),
        **prefixed("cond_stage_model.transformer.", text),
        **{key: (1000,) for key in NOISE_SCHEDULE},
        "model_ema.decay": (),
        "model_ema.num_updates": (),
    }
    same(convert_ldm_unet_checkpoint(on_meta(ldm), dict(unet_model.config)), unet)
    same(convert_ldm_vae_checkpoint(on_meta(ldm), dict(vae_model.config)), vae)

    manifests = {"unet": unet, "vae": vae, "text_encoder": text, "single_file": ldm, "clip": clip}
    for name, listed in manifests.items():
        (HERE / f"{name}.json").write_text(json.dumps(dict(sorted(listed.items())), separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
