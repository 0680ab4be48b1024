"""What is refused before a model is loaded: flags that ask for no image, by themselves and by the model's configs."""

import argparse
import math
from collections.abc import Sequence
from typing import Any

from jaxsd.clip.tokens import check_unicode, load_tokenizer
from jaxsd.diffusion.loading import ModelConfigs, read_configs
from jaxsd.diffusion.lora import open_lora, parse_lora
from jaxsd.diffusion.pipeline import check_clip_skip, check_guidance, check_reuse, latent_shape, strength_of
from jaxsd.diffusion.samplers import make_sampler
from jaxsd.diffusion.sampling_defaults import SamplingDefaults
from jaxsd.diffusion.textual_inversion import parse_embedding, read_textual_inversion
from jaxsd.generation.flags import given_sampling
from jaxsd.generation.slides import ALLOWED_SLIDE_FILES
from jaxsd.runtime.bundled import model_source
from jaxsd.runtime.files import check_output_folder
from jaxsd.sound_to_image import normalize_weights, sampling_or_papers

LARGEST_SEED = 2**63 - 1
FILE_SUFFIXES = {*ALLOWED_SLIDE_FILES, ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".avi", ".mkv", ".mov", ".webm"}


def check_flags(
    arguments: argparse.Namespace,
    names: Sequence[str],
    *,
    texts: Sequence[str] = (),
    images: Sequence[bool] = (False,),
    mask: bool = False,
    swept: Sequence[dict[str, Any]] = ({},),
) -> None:
    """Refuse what the flags of an image or of a study say and no model can have.

    No weights of a model are loaded or downloaded. The files of LoRAs and textual inversions are read.

    Args:
        arguments: the flags.
        names: the encoders.
        texts: the prompts.
        images: whether there are images to start from: False, True or both.
        mask: whether a part of these images is painted.
        swept: the values of each step of a sweep.

    Raises:
        ValueError, FileNotFoundError: in one sentence, what does not fit.
    """
    check_output_folder(arguments.out)
    if arguments.out.suffix.lower() in FILE_SUFFIXES and not arguments.out.is_dir():
        films = "" if arguments.slide is None else f", or a file that ends in {', '.join(ALLOWED_SLIDE_FILES)}"
        raise ValueError(f"--out is {arguments.out}, the name of a file; allowed: a folder{films}")
    for name in ("count", "batch", "limit"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; allowed: 1 or more")
    if not 0 <= arguments.seed <= LARGEST_SEED:
        raise ValueError(f"seed is {arguments.seed}; allowed: 0 to {LARGEST_SEED}")
    normalize_weights(arguments.weights, len(names), "encoder")
    for text in texts:
        check_unicode(text)
    for source, weight in map(parse_lora, arguments.lora):
        if not math.isfinite(weight):
            raise ValueError(f"the weight of the LoRA {source} is {weight}; allowed: a finite number")
        open_lora(source)
    given = given_sampling(arguments)
    SamplingDefaults(**{name: given[name] for name in ("guidance", "steps", "sampler") if name in given})
    check_reuse(given.get("cache_interval", 1), given.get("merge_tokens", 0.0))
    configs = read_configs(model_source(arguments.model), revision=arguments.revision, vae=arguments.vae)
    check_clip_skip(arguments.clip_skip, configs.text_encoder)
    latent_shape(configs.unet, configs.vae, arguments.height, arguments.width)
    for image in images:
        for values in swept:
            _check_sampling(configs, {"strength": arguments.strength} | given | values, image, mask)
    for source, token in map(parse_embedding, arguments.embedding):
        read_textual_inversion(source, configs.text_encoder.hidden_size, token)
    if arguments.tokenizer:
        load_tokenizer(arguments.tokenizer, configs.text_encoder)


def _check_sampling(configs: ModelConfigs, given: dict[str, Any], image: bool, mask: bool):
    """Make the table of the steps, which refuses what fits no sampler."""
    defaults = sampling_or_papers(configs.sampling, image)
    check_guidance(given.get("guidance", defaults.guidance), given.get("guidance_end", 1.0))
    strength = strength_of(image or None, mask or None, given["strength"])
    sampler = given.get("sampler") or configs.sampling.sampler or configs.schedule.sampler
    make_sampler(sampler, configs.schedule, given.get("steps", defaults.steps), strength)
