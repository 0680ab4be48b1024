"""Stable Diffusion 1.x from a folder in diffusers' layout, from the hub, or from one file of weights."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

from flax import nnx
from jax.typing import DTypeLike

from jaxsd.clip.params import CLIP_IGNORED, TEXT_MAPPING
from jaxsd.clip.tokens import TOKENIZER_FILES
from jaxsd.clip.towers import TextConfig, TextModel
from jaxsd.diffusion.samplers import NoiseSchedule
from jaxsd.diffusion.sampling_defaults import SAMPLING_CONFIG, SamplingDefaults
from jaxsd.diffusion.single_file import SINGLE_FILE_IGNORED, single_file_mapping
from jaxsd.diffusion.unet import UNet, UNetConfig
from jaxsd.diffusion.unet_params import UNET_MAPPING
from jaxsd.diffusion.vae import VAE, VAEConfig
from jaxsd.diffusion.vae_params import VAE_MAPPING
from jaxsd.files import read_json
from jaxsd.pretrained.hub import fetch
from jaxsd.pretrained.model_config import read_model_config
from jaxsd.pretrained.recognize import OTHER_MODELS, PARTS_OF_A_MODEL, recognize_transformer, recognize_unet
from jaxsd.pretrained.weights import (
    DIFFUSERS_WEIGHTS,
    SAFETENSORS,
    TRANSFORMERS_WEIGHTS,
    download_weights,
    find_weights,
    load_weights,
)

MODEL_NAME = "Stable Diffusion 1.x"
COMPONENTS = {"unet": DIFFUSERS_WEIGHTS, "vae": DIFFUSERS_WEIGHTS, "text_encoder": TRANSFORMERS_WEIGHTS}
CONFIG_FILES = (
    *(f"{component}/config.json" for component in (*COMPONENTS, "transformer")),  # transformer: of other models
    "scheduler/scheduler_config.json",
    SAMPLING_CONFIG,
    *(f"tokenizer/{file}" for file in TOKENIZER_FILES),
)
SD15_UNET, SD15_VAE = UNetConfig(), VAEConfig()
SD15_TEXT = TextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
CLIP_REPOSITORY = "openai/clip-vit-large-patch14"


class Components(NamedTuple):
    """What a pipeline is made of. `tokenizer` is the folder or repository of the tokenizer."""

    unet: UNet
    vae: VAE
    text_encoder: TextModel
    tokenizer: str | Path
    schedule: NoiseSchedule
    sampling: SamplingDefaults


def load_folder(
    source: str | Path, revision: str | None, variant: str | None, tokenizer: str | Path | None, dtype: DTypeLike
) -> Components:
    """Load a folder in diffusers' layout or the Hugging Face repository of that id.

    The configs are read before any weights are downloaded. The arguments are those of
    `StableDiffusion.from_pretrained`. Raises FileNotFoundError or ValueError naming the file.
    """
    folder = fetch(source, CONFIG_FILES, revision)
    _refuse_other_models(folder)

    def load(component, config_class, model_class, mapping, ignore=()):
        path = folder / component
        config = read_model_config(config_class, path / "config.json")
        files = find_weights(path, COMPONENTS[component], variant)
        make = partial(model_class, config, dtype=dtype)
        return load_weights(files, mapping, make, dtype, ignore, wanted=MODEL_NAME)

    schedule = NoiseSchedule.read(folder / "scheduler" / "scheduler_config.json")
    sampling = SamplingDefaults.read(folder)
    download_weights(source, folder, COMPONENTS, variant)
    return Components(
        load("unet", UNetConfig, UNet, UNET_MAPPING),
        load("vae", VAEConfig, VAE, VAE_MAPPING),
        load("text_encoder", TextConfig, TextModel, TEXT_MAPPING, CLIP_IGNORED),
        tokenizer or folder / "tokenizer",
        schedule,
        sampling,
    )


def read_unet_config(source: str | Path, revision: str | None = None) -> UNetConfig:
    """The config of a model's U-Net, without loading or downloading any weights; a single file's is SD 1.5's.

    Raises FileNotFoundError or ValueError naming the file, also where the model is another than Stable Diffusion 1.x.
    """
    if is_single_file(source):
        return SD15_UNET
    folder = fetch(source, CONFIG_FILES, revision)
    _refuse_other_models(folder)
    return read_model_config(UNetConfig, folder / "unet" / "config.json")


def is_single_file(source: str | Path) -> bool:
    """Whether a source is one file of weights, be it there or not."""
    return Path(source).is_file() or Path(source).suffix == SAFETENSORS


def _refuse_other_models(folder: Path):
    transformer, unet = (folder / component / "config.json" for component in ("transformer", "unet"))
    if transformer.is_file():
        other = recognize_transformer(read_json(transformer))
        raise ValueError(f"{transformer} is that of {other}, not {MODEL_NAME}")
    if other := recognize_unet(read_json(unet)):
        raise ValueError(f"{unet} is that of {other}, not {MODEL_NAME}")


def load_single_file(
    path: Path,
    tokenizer: str | Path | None,
    dtype: DTypeLike,
    unet: UNetConfig = SD15_UNET,
    vae: VAEConfig = SD15_VAE,
    text: TextConfig = SD15_TEXT,
) -> Components:
    """Load one .safetensors file with the names of the first Stable Diffusion code.

    Such a file has neither configs nor a tokenizer. It is read as a model of these configs, by default Stable
    Diffusion 1.5. Raises FileNotFoundError or ValueError naming the file where it is missing, damaged, of another
    model or of another size.
    """
    if path.suffix != SAFETENSORS:
        raise ValueError(f"{path}: {MODEL_NAME} in one file must be a .safetensors file")

    def make(rngs):
        options = {"dtype": dtype, "rngs": rngs}
        return nnx.Dict(unet=UNet(unet, **options), vae=VAE(vae, **options), text_encoder=TextModel(text, **options))

    mapping = single_file_mapping(unet, len(vae.block_out_channels))
    others = (*OTHER_MODELS, *PARTS_OF_A_MODEL)
    models = load_weights([path], mapping, make, dtype, SINGLE_FILE_IGNORED, wanted=MODEL_NAME, others=others)
    return Components(
        models.unet,
        models.vae,
        models.text_encoder,
        tokenizer or CLIP_REPOSITORY,
        NoiseSchedule(),
        SamplingDefaults(),
    )
