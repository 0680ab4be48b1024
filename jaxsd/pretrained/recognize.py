"""Recognizes checkpoints of other models by their keys or configs, so that an error can name the model."""

import re
from collections.abc import Iterable, Mapping

SDXL = "Stable Diffusion XL"
SD2 = "Stable Diffusion 2"
SD3 = "Stable Diffusion 3"
FLUX = "Flux"

# What the file holds, and a regex of keys that tell so. The first that any key matches counts: Flux has keys of SD 3.
OTHER_MODELS = (
    ("a LoRA, which is a change to a model", r"(.*\.)?lora_.+|.*[._]lora\..+|.*\.(hada|lokr)_w1.*"),
    ("a ControlNet", r"control_model\..+|controlnet_.+"),
    ("a textual inversion", r"emb_params|string_to_param\..+"),
    (SDXL, r"conditioner\.embedders\..+|model\.diffusion_model\.label_emb\..+|add_embedding\..+"),
    (SD2, r"cond_stage_model\.model\..+"),
    (FLUX, r"(model\.diffusion_model\.)?double_blocks\..+|single_transformer_blocks\..+"),
    (SD3, r"(model\.diffusion_model\.)?joint_blocks\..+|transformer_blocks\.\d+\.attn\.add_q_proj\..+"),
)

# LoRAs of other models, and adapters that are not a product of two factors. The text encoders of SDXL are two.
OTHER_LORAS = (
    ("a LoHa", r".*\.hada_.+"),
    ("a LoKr", r".*\.lokr_.+"),
    ("a DoRA", r".*\.(dora_scale|lora_magnitude_vector(\..+)?)"),
    (f"a LoRA of {SDXL}", r"lora_te2_.+|text_encoder_2\..+|.*attentions[._]\d[._]transformer_blocks[._][1-9].+"),
    (
        f"a LoRA of {SDXL}",
        r"(lora_unet_|.*\.)?(input|middle|output)_(blocks?)([._]\d+)+[._]transformer_blocks[._][1-9].+",
    ),
    (f"a LoRA of {FLUX}", r"(.*[._])?(double_blocks|single_blocks|single_transformer_blocks)[._].+"),
    (f"a LoRA of {SD3}", r"(.*[._])?joint_blocks[._].+"),
    (f"a LoRA of {FLUX} or {SD3}", r"(lora_transformer_|transformer\.|base_model\.model\.)?transformer_blocks[._]\d.+"),
)

# Parts of a model in place of the whole model in one file.
PARTS_OF_A_MODEL = (
    ("the U-Net alone of a diffusers folder", r"down_blocks\..+"),
    ("a VAE alone", r"(encoder|decoder)\.(conv_in|mid)\..+"),
    ("CLIP or a text encoder alone", r"text_model\..+"),
)

# A key and a value of unet/config.json, and which other model they tell of.
OTHER_UNETS = (
    ("addition_embed_type", "text_time", SDXL),
    ("cross_attention_dim", 2048, SDXL),
    ("cross_attention_dim", 1024, SD2),
    ("in_channels", 8, "an InstructPix2Pix model"),
)

# `_class_name` in transformer/config.json, and the model.
TRANSFORMER_MODELS = {"SD3Transformer2DModel": SD3, "FluxTransformer2DModel": FLUX}


def recognize_keys(keys: Iterable[str], models: Iterable[tuple[str, str]]) -> str | None:
    """The first of `models`, each a name and a regex, that any key tells of, or None."""
    keys = list(keys)
    return next((model for model, pattern in models if any(re.fullmatch(pattern, key) for key in keys)), None)


def recognize_unet(config: Mapping[str, object]) -> str | None:
    """Which other model has a U-Net of this config, or None."""
    return next((model for key, value, model in OTHER_UNETS if config.get(key) == value), None)


def recognize_transformer(config: Mapping[str, object]) -> str:
    """Which model has a transformer of this config in place of the U-Net."""
    name = config.get("_class_name")
    return TRANSFORMER_MODELS.get(str(name), f"a model with a transformer ({name}) in place of the U-Net")
