"""`jaxsd publish`: its flags."""

import argparse
from pathlib import Path

from jaxsd.runtime import cli


def run_publish():
    parser = cli.ArgumentParser(
        description="Upload an encoder or a LoRA, with a model card, to the Hugging Face hub,\nas who "
        "HF_TOKEN or `hf auth login` says.\n\n  %(prog)s runs/gemini you/gemini --license mit --dry-run out/gemini",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", help="the folder or name of an encoder, or a LoRA: a .safetensors file or a folder")
    add("repository", metavar="OWNER/NAME", help="the repository, which is made where there is none")
    add("--license", metavar="ID", help="the hub's id of a license, such as mit, for the card")
    add("--base-model", metavar="MODEL", help="the repository of the Stable Diffusion that it is for, for the card")
    add("--private", action="store_true", help="make the repository a private one")
    add("--dry-run", type=Path, metavar="FOLDER", help="write what would be uploaded to a folder; needs no network")
    arguments = parser.parse_args()
    from jaxsd.commands.publishing import publish

    print(publish(**vars(arguments)))
