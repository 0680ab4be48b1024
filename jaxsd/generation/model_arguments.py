"""The flags that name a Stable Diffusion and how it is loaded, for every command that draws images."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxsd.sound_to_image import SoundToImage


def add_model_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    add = parser.add_argument
    add("--model", help="Stable Diffusion 1.x: a folder, a .safetensors file or a repository (toy)")
    add("--revision", help="branch, tag or commit of the model on the hub")
    add("--variant", help="part of the file names of the model's weights, such as fp16")
    add("--tokenizer", help="a folder or repository in place of the model's own tokenizer")
    add("--vae", help="a folder or .safetensors file with a VAE in place of the model's own")
    add(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the computation (bfloat16 on accelerators, float32 on the CPU)",
    )


def add_trust_argument(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="let the folder of an encoder that is not of this project run the Python file that it names",
    )


def load_model(
    arguments: argparse.Namespace, encoders: Sequence[str], weights: Sequence[float] | None = None
) -> "SoundToImage":
    """The encoders of these names in front of the Stable Diffusion that the flags, and --trust-code, name."""
    from jaxsd.sound_to_image import SoundToImage  # slow to import, and --help needs none of it

    return SoundToImage.from_pretrained(
        encoders,
        arguments.model,
        weights=weights,
        revision=arguments.revision,
        variant=arguments.variant,
        tokenizer=arguments.tokenizer,
        vae=arguments.vae,
        trust_code=arguments.trust_code,
        dtype=arguments.dtype,
    )


def add_place_arguments(parser: argparse.ArgumentParser):
    """The flags that name another place of the models that a data set names."""
    parser.add_argument("--clip", help="another place of the CLIP that the data name: a folder or a repository")
    parser.add_argument("--model", help="another place of the Stable Diffusion that the data name")
