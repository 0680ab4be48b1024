"""Stable Diffusion 1.x to a folder in diffusers' layout."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
from jax.typing import DTypeLike

from jaxsd.clip.params import TEXT_MAPPING
from jaxsd.clip.pipeline import text_json
from jaxsd.clip.towers import TextModel
from jaxsd.diffusion.loading import COMPONENTS
from jaxsd.diffusion.samplers import SAMPLERS, NoiseSchedule
from jaxsd.diffusion.sampling_defaults import SAMPLING_CONFIG, SamplingDefaults
from jaxsd.diffusion.unet import UNet
from jaxsd.diffusion.unet_params import UNET_MAPPING
from jaxsd.diffusion.vae import VAE, VAEConfig
from jaxsd.diffusion.vae_params import VAE_MAPPING
from jaxsd.pretrained.mapping import export_parameters
from jaxsd.pretrained.model_config import to_json
from jaxsd.pretrained.weights import write_safetensors
from jaxsd.runtime.files import write_json

MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def save_folder(
    folder: Path,
    unet: UNet,
    vae: VAE,
    text_encoder: TextModel,
    tokenizer,
    schedule: NoiseSchedule,
    sampling: SamplingDefaults,
    dtype: DTypeLike = np.float32,
) -> None:
    """Write the folder that `load_folder` and diffusers' StableDiffusionPipeline read, with weights as `dtype`.

    `tokenizer` is a tokenizer of transformers. `sampling` is written to `sampling_config.json`, which diffusers
    ignores. Raises ValueError where a parameter is not finite as `dtype`.
    """
    for name in (*COMPONENTS, "tokenizer", "scheduler"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    # Weights first, for these may be refused: a folder without configs is none.
    mappings = {"unet": (unet, UNET_MAPPING), "vae": (vae, VAE_MAPPING), "text_encoder": (text_encoder, TEXT_MAPPING)}
    for component, (model, mapping) in mappings.items():
        path = folder / component / COMPONENTS[component].file
        write_safetensors(export_parameters(model, mapping, dtype), path)
    text = {"architectures": ["CLIPTextModel"], **text_json(text_encoder.config, tokenizer)}
    write_json(folder / "text_encoder" / "config.json", text)
    write_json(folder / "unet" / "config.json", {"_class_name": "UNet2DConditionModel", **to_json(unet.config)})
    write_json(folder / "vae" / "config.json", {"_class_name": "AutoencoderKL", **vae_json(vae.config)})
    scheduler = scheduler_json(schedule)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_json(folder / "model_index.json", {**MODEL_INDEX, "scheduler": ["diffusers", scheduler["_class_name"]]})
    write_json(folder / SAMPLING_CONFIG, asdict(sampling))
    tokenizer.save_pretrained(folder / "tokenizer")


def vae_json(config: VAEConfig) -> dict:
    """The config of a VAE as diffusers writes it, which also names the blocks."""
    levels = len(config.block_out_channels)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels}
    return {**blocks, **to_json(config)}


def scheduler_json(schedule: NoiseSchedule) -> dict:
    """A noise schedule as diffusers writes it, under the class of its sampler. What is None stays unsaid."""
    fields = {key: value for key, value in asdict(schedule).items() if value is not None}
    sampler, options = fields.pop("sampler"), fields.pop("options")
    name = SAMPLERS[sampler].scheduler if sampler in SAMPLERS else sampler
    return {"_class_name": name, "clip_sample": False, "skip_prk_steps": True, **dict(options), **fields}
