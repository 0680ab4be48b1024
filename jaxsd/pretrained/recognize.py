"""What a checkpoint is that is not Stable Diffusion 1.x or CLIP, told by its keys or by its config."""

import re
from collections.abc import Iterable, Mapping

SDXL = "Stable Diffusion XL"
SD2 = "Stable Diffusion 2"
SD3 = "Stable Diffusion 3"
FLUX = "Flux"

# What it is, and a regex of keys that tell so; the first that any key matches counts (Flux has some of SD 3's).
KEYS = (
    ("a LoRA, which is a change to a model", r"(.*\.)?lora_.+|.*[._]lora\..+|.*\.(hada|lokr)_w1.*"),
    ("a ControlNet", r"control_model\..+|controlnet_.+"),
    ("a textual inversion", r"emb_params|string_to_param\..+"),
    (SDXL, r"conditioner\.embedders\..+|model\.diffusion_model\.label_emb\..+|add_embedding\..+"),
    (SD2, r"cond_stage_model\.model\..+"),
    (FLUX, r"(model\.diffusion_model\.)?double_blocks\..+|single_transformer_blocks\..+"),
    (SD3, r"(model\.diffusion_model\.)?joint_blocks\..+|transformer_blocks\.\d+\.attn\.add_q_proj\..+"),
)

# Where a whole model is asked for in one file.
PIECES = (
    ("the U-Net alone of a diffusers folder", r"down_blocks\..+"),
    ("a VAE alone", r"(encoder|decoder)\.(conv_in|mid)\..+"),
    ("CLIP or a text encoder alone", r"text_model\..+"),
)

# unet/config.json of others: key, value, what it is.
UNETS = (
    ("addition_embed_type", "text_time", SDXL),
    ("cross_attention_dim", 2048, SDXL),
    ("cross_attention_dim", 1024, SD2),
    ("in_channels", 9, "an inpainting model"),
    ("in_channels", 8, "an InstructPix2Pix model"),
)

# _class_name of transformer/config.json
TRANSFORMERS = {"SD3Transformer2DModel": SD3, "FluxTransformer2DModel": FLUX}


def recognise_keys(keys: Iterable[str], kinds: Iterable[tuple[str, str]]) -> str | None:
    """The first of `kinds` that any key tells of, or None."""
    keys = list(keys)
    return next((kind for kind, pattern in kinds if any(re.fullmatch(pattern, key) for key in keys)), None)


def recognise_unet(config: Mapping[str, object]) -> str | None:
    """What other model has a U-Net of this config, or None."""
    return next((kind for key, value, kind in UNETS if config.get(key) == value), None)


def recognise_transformer(config: Mapping[str, object]) -> str:
    """What has a transformer of this config in place of the U-Net."""
    name = config.get("_class_name")
    return TRANSFORMERS.get(name, f"a model with a transformer ({name}) in place of the U-Net")
