"""Stable Diffusion 1.x from a folder in diffusers' layout, from the hub, or from one file of weights."""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from flax import nnx
from jax.typing import DTypeLike

from jaxsd.clip.params import TEXT_MAPPING, text_ignored
from jaxsd.clip.tokens import TOKENIZER_FILES, has_tokenizer
from jaxsd.clip.towers import TextConfig, TextModel
from jaxsd.diffusion.samplers import NoiseSchedule
from jaxsd.diffusion.sampling_defaults import SAMPLING_CONFIG, SamplingDefaults
from jaxsd.diffusion.single_file import PREFIXES, SINGLE_FILE_IGNORED, single_file_mapping, vae_mapping
from jaxsd.diffusion.unet import UNet, UNetConfig
from jaxsd.diffusion.unet_params import UNET_MAPPING
from jaxsd.diffusion.vae import VAE, VAEConfig
from jaxsd.diffusion.vae_params import VAE_MAPPING
from jaxsd.pretrained.hub import fetch, find_cached
from jaxsd.pretrained.mapping import Model, Rule
from jaxsd.pretrained.model_config import read_model_config
from jaxsd.pretrained.recognize import (
    OTHER_MODELS,
    PARTS_OF_A_MODEL,
    recognize_keys,
    recognize_transformer,
    recognize_unet,
)
from jaxsd.pretrained.weights import (
    DIFFUSERS_WEIGHTS,
    SAFETENSORS,
    TRANSFORMERS_WEIGHTS,
    download_weights,
    find_weights,
    load_weights,
    open_tensors,
)
from jaxsd.runtime.files import read_json

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


class ModelConfigs(NamedTuple):
    """What is known of a model before its weights."""

    unet: UNetConfig
    vae: VAEConfig
    text_encoder: TextConfig
    schedule: NoiseSchedule
    sampling: SamplingDefaults


class Components(NamedTuple):
    """What a pipeline is made of. `tokenizer` is the folder or repository of the tokenizer."""

    unet: UNet
    vae: VAE
    text_encoder: TextModel
    tokenizer: str | Path
    schedule: NoiseSchedule
    sampling: SamplingDefaults


def load_folder(
    source: str | Path,
    dtype: DTypeLike,
    *,
    revision: str | None = None,
    variant: str | None = None,
    tokenizer: str | Path | None = None,
    vae: str | Path | None = None,
) -> Components:
    """Load a folder in diffusers' layout or the Hugging Face repository of that id.

    The configs are read before any weights are downloaded. The arguments are those of
    `StableDiffusion.from_pretrained`. Raises FileNotFoundError or ValueError naming the file.
    """
    folder = fetch(source, CONFIG_FILES, revision)
    configs = _read_folder_configs(folder, vae)
    needed = {name: weights for name, weights in COMPONENTS.items() if not (vae and name == "vae")}
    download_weights(source, folder, needed, variant)

    def load(name: str, make: Callable[..., Model], mapping: Iterable[Rule], ignore: Iterable[str] = ()) -> Model:
        files = find_weights(folder / name, COMPONENTS[name], variant)
        return load_weights(files, mapping, partial(make, dtype=dtype), dtype, ignore, wanted=MODEL_NAME)

    text_prefix = r"(text_model\.)?"
    return Components(
        load("unet", partial(UNet, configs.unet), UNET_MAPPING),
        load_vae(vae, dtype) if vae else load("vae", partial(VAE, configs.vae), VAE_MAPPING),
        load(
            "text_encoder",
            partial(TextModel, configs.text_encoder),
            TEXT_MAPPING,
            text_ignored(text_prefix, configs.text_encoder.num_hidden_layers),
        ),
        tokenizer or folder / "tokenizer",
        configs.schedule,
        configs.sampling,
    )


def read_configs(source: str | Path, *, revision: str | None = None, vae: str | Path | None = None) -> ModelConfigs:
    """The configs of a model, without loading or downloading any weights; a single file's are SD 1.5's.

    The arguments are those of `StableDiffusion.from_pretrained`. Raises FileNotFoundError or ValueError naming the
    file, also where the model is another than Stable Diffusion 1.x or its networks do not fit each other.
    """
    if is_single_file(source):
        check_single_file(source, revision=revision)
        _refuse_other_files(Path(source))
        vae_config = read_vae_config(vae) if vae else SD15_VAE
        return ModelConfigs(SD15_UNET, vae_config, SD15_TEXT, NoiseSchedule(), SamplingDefaults())
    return _read_folder_configs(fetch(source, CONFIG_FILES, revision), vae)


def _read_folder_configs(folder: Path, vae: str | Path | None) -> ModelConfigs:
    _refuse_other_models(folder)
    unet = read_model_config(UNetConfig, folder / "unet" / "config.json")
    text_encoder = read_model_config(TextConfig, folder / "text_encoder" / "config.json")
    vae_config = read_vae_config(vae) if vae else read_model_config(VAEConfig, folder / "vae" / "config.json")
    check_networks_fit(vae or folder, unet, vae_config, text_encoder)
    schedule = NoiseSchedule.read(folder / "scheduler" / "scheduler_config.json")
    return ModelConfigs(unet, vae_config, text_encoder, schedule, SamplingDefaults.read(folder))


def read_unet_config(source: str | Path, revision: str | None = None) -> UNetConfig:
    """The config of a model's U-Net, without loading or downloading any weights; a single file's is SD 1.5's.

    Raises FileNotFoundError or ValueError naming the file, also where the model is another than Stable Diffusion 1.x.
    """
    if is_single_file(source):
        check_single_file(source, revision=revision)
        _refuse_other_files(Path(source))
        return SD15_UNET
    folder = fetch(source, CONFIG_FILES, revision)
    _refuse_other_models(folder)
    return read_model_config(UNetConfig, folder / "unet" / "config.json")


def is_single_file(source: str | Path) -> bool:
    """Whether a source is one file of weights, be it there or not."""
    return Path(source).is_file() or Path(source).suffix == SAFETENSORS


def check_single_file(source: str | Path, **given: str | None) -> None:
    """Raise ValueError where a revision or variant is given that a single file does not have."""
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{source} is one file, which has no {name} {value}; leave the {name} out")


def _refuse_other_models(folder: Path):
    transformer, unet = (folder / component / "config.json" for component in ("transformer", "unet"))
    if transformer.is_file():
        other = recognize_transformer(read_json(transformer))
        raise ValueError(f"{transformer} is that of {other}, not {MODEL_NAME}")
    if other := recognize_unet(read_json(unet)):
        raise ValueError(f"{unet} is that of {other}, not {MODEL_NAME}")


def _refuse_other_files(path: Path) -> dict[str, Any]:
    """The tensors of a file, which must be of Stable Diffusion 1.x as far as its format and its keys say."""
    if path.suffix != SAFETENSORS:
        raise ValueError(f"{path}: {MODEL_NAME} in one file must be a .safetensors file")
    names = open_tensors([path])
    if other := recognize_keys(names, (*OTHER_MODELS, *PARTS_OF_A_MODEL)):
        raise ValueError(f"{path} is {other}, not {MODEL_NAME}")
    return names


def load_single_file(
    path: Path,
    dtype: DTypeLike,
    *,
    tokenizer: str | Path | None = None,
    vae: str | Path | None = None,
    unet_config: UNetConfig = SD15_UNET,
    vae_config: VAEConfig = SD15_VAE,
    text_config: TextConfig = SD15_TEXT,
) -> Components:
    """Load one .safetensors file with the names of the first Stable Diffusion code.

    Such a file has neither configs nor a tokenizer. It is read as a model of these configs, by default Stable
    Diffusion 1.5. The other arguments are those of `StableDiffusion.from_pretrained`. Raises FileNotFoundError or
    ValueError naming the file where it is missing, damaged, of another model or of another size, and the component
    that it lacks.
    """
    names = _refuse_other_files(path)
    for component, prefix in PREFIXES.items():
        if not any(name.startswith(prefix) for name in names) and not (component == "vae" and vae):
            remedy = "; name one to take in its place: vae= (--vae)" if component == "vae" else ""
            raise ValueError(f"{path} holds no {component.replace('_', ' ')}: no key begins with {prefix}{remedy}")
    first = names.get(PREFIXES["unet"] + "input_blocks.0.0.weight")
    if first is not None and first.shape[1:2] == (2 * unet_config.out_channels + 1,):  # an inpainting model
        unet_config = replace(unet_config, in_channels=first.shape[1])
    makers = {"unet": partial(UNet, unet_config), "text_encoder": partial(TextModel, text_config)}
    ignored = [
        *SINGLE_FILE_IGNORED,
        *text_ignored(r"cond_stage_model\.transformer\.(text_model\.)?", text_config.num_hidden_layers),
    ]
    if vae:
        ignored.append(re.escape(PREFIXES["vae"]) + ".*")
    else:
        makers["vae"] = partial(VAE, vae_config)

    def make(rngs) -> nnx.Dict:
        return nnx.Dict({name: maker(dtype=dtype, rngs=rngs) for name, maker in makers.items()})

    mapping = single_file_mapping(unet_config, len(vae_config.block_out_channels))
    models: Any = load_weights([path], mapping, make, dtype, ignored, wanted=MODEL_NAME)
    components = Components(
        models.unet,
        load_vae(vae, dtype) if vae else models.vae,
        models.text_encoder,
        tokenizer or find_tokenizer(path),
        NoiseSchedule(),
        SamplingDefaults(),
    )
    check_networks_fit(vae or path, unet_config, components.vae.config, text_config)
    return components


def read_vae_config(source: str | Path, revision: str | None = None) -> VAEConfig:
    """The config of the VAE that `load_vae` loads, without its weights. Raises what that raises."""
    if is_single_file(source):
        open_tensors([Path(source)])  # refuses what is not there
        return SD15_VAE
    return _read_vae_folder(source, revision)[2]


def _read_vae_folder(source: str | Path, revision: str | None) -> tuple[Path, str, VAEConfig]:
    """The folder, the part of it that the VAE is ("" where it is a VAE alone), and the VAE's config."""
    folder = fetch(source, ("config.json", "vae/config.json"), revision)
    part = "vae" if (folder / "vae" / "config.json").is_file() else ""
    return folder, part, read_model_config(VAEConfig, folder / part / "config.json")


def load_vae(source: str | Path, dtype: DTypeLike, revision: str | None = None, variant: str | None = None) -> VAE:
    """Load a VAE alone. `revision` is a branch, tag or commit of a repository, `variant` part of the file names.

    `source` is a folder or Hugging Face repository in diffusers' layout, of the VAE or of a whole model, or one file
    with diffusers' names or those of the first Stable Diffusion code, which is read as the VAE of Stable Diffusion 1.5.
    Raises FileNotFoundError or ValueError naming the file.
    """
    path = Path(source)
    if is_single_file(path):
        names = list(open_tensors([path]))
        prefix = PREFIXES["vae"] if any(name.startswith(PREFIXES["vae"]) for name in names) else ""
        in_diffusers = any(name.startswith("encoder.down_blocks.") for name in names)
        mapping = VAE_MAPPING if in_diffusers else vae_mapping(len(SD15_VAE.block_out_channels), prefix, "")
        others = [re.escape(other) + ".+" for name, other in PREFIXES.items() if name != "vae"]
        make = partial(VAE, SD15_VAE, dtype=dtype)
        return load_weights([path], mapping, make, dtype, [*SINGLE_FILE_IGNORED, *others], wanted="a VAE")
    folder, part, config = _read_vae_folder(source, revision)
    download_weights(source, folder, {part: DIFFUSERS_WEIGHTS}, variant)
    files = find_weights(folder / part, DIFFUSERS_WEIGHTS, variant)
    return load_weights(files, VAE_MAPPING, partial(VAE, config, dtype=dtype), dtype, wanted="a VAE")


def find_tokenizer(path: Path) -> str | Path:
    """Where the tokenizer of a single file is: beside the file, in the cache of the hub, or on the hub."""
    for folder in (path.parent, path.parent / "tokenizer"):
        if has_tokenizer(folder):
            return folder
    cached = find_cached(CLIP_REPOSITORY, ("tokenizer.json", "merges.txt"))
    return cached if cached and has_tokenizer(cached) else CLIP_REPOSITORY


def require_tokenizer(source: str | Path) -> None:
    """Raise FileNotFoundError where `source` is a single file whose tokenizer cannot be had, naming the argument.

    To be called before loading where texts will be encoded and no tokenizer is named.
    """
    path = Path(source)
    if path.is_file() and find_tokenizer(path) == CLIP_REPOSITORY:
        try:
            fetch(CLIP_REPOSITORY, TOKENIZER_FILES)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{path} holds no tokenizer and none lies beside it; name one: tokenizer= (--tokenizer). {error}"
            ) from None


def check_networks_fit(name: str | Path, unet: UNetConfig, vae: VAEConfig | None, text: TextConfig) -> None:
    """Raise ValueError where the networks do not fit each other. `name` is what the error calls them."""
    if text.hidden_size != unet.cross_attention_dim:
        raise ValueError(
            f"{name}: the text encoder's hidden_size is {text.hidden_size}, but the U-Net's cross_attention_dim is "
            f"{unet.cross_attention_dim}"
        )
    if unet.in_channels not in (unet.out_channels, 2 * unet.out_channels + 1):  # and a mask and a masked image
        raise ValueError(
            f"{name}: the U-Net's out_channels is {unet.out_channels} and its in_channels {unet.in_channels}; allowed: "
            "as many, or for inpainting twice as many and one"
        )
    if vae and vae.latent_channels != unet.out_channels:
        raise ValueError(
            f"{name}: the VAE's latent_channels is {vae.latent_channels}, but the U-Net's out_channels is "
            f"{unet.out_channels}"
        )
