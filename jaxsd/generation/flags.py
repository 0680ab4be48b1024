"""What the flags of images and of studies say alike: the model with what changes it, and the sampling."""

import argparse
from collections.abc import Sequence
from typing import Any

from jaxsd.diffusion.lora import parse_lora
from jaxsd.diffusion.sampling_defaults import FAST
from jaxsd.diffusion.textual_inversion import parse_embedding
from jaxsd.generation.model_arguments import load_model
from jaxsd.sound_to_image import SoundToImage


def load_changed_model(
    arguments: argparse.Namespace, names: Sequence[str], weights: Sequence[float] | None = None
) -> SoundToImage:
    """`load_model`, with what --lora, --embedding, --controlnet, --clip-skip and --weighted-prompts change of it."""
    model = load_model(arguments, names, weights)
    for source, weight in map(parse_lora, arguments.lora):
        model.pipe.load_lora(source, weight)
    for source, token in map(parse_embedding, arguments.embedding):
        model.pipe.load_textual_inversion(source, token)
    if arguments.controlnet:
        model.pipe.load_controlnet(arguments.controlnet)
    model.pipe.clip_skip, model.pipe.weighted_prompts = arguments.clip_skip, arguments.weighted_prompts
    return model


def given_sampling(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the flags say of sampling, less what an image to start from needs."""
    names = (
        "guidance",
        "guidance_end",
        "steps",
        "sampler",
        "height",
        "width",
        "control_scale",
        "cache_interval",
        "merge_tokens",
    )
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    return {**(FAST if arguments.fast else {}), **given}
