"""The commands `jaxsd generate | train | eval | serve | data | convert | publish | encoders | toy | arena`."""

import argparse
import importlib
import sys

from jaxsd.runtime import cli

# What a command is, and the function that runs it. `jaxsd data` is `python -m jaxsd.data`, and so on.
COMMANDS = {
    "generate": ("turn sounds into images", "jaxsd.commands.generate:run_generate"),
    "train": ("train an audio encoder", "jaxsd.commands.train:run_train"),
    "eval": ("evaluate audio encoders on held-out data", "jaxsd.commands.evaluate:run_eval"),
    "serve": ("a page to play with, and its API", "jaxsd.serving.__main__:main"),
    "data": ("prepare a data set of one's own, or look at one", "jaxsd.data.__main__:main"),
    "convert": ("convert encoders from and to PyTorch", "jaxsd.convert.__main__:main"),
    "publish": ("upload an encoder or a LoRA to the Hugging Face hub", "jaxsd.commands.publish:run_publish"),
    "encoders": ("list encoders, check one, count its layers", "encoders.__main__:main"),
    "toy": ("the built-in toy world: demo, training, experiments", "jaxsd.toy.__main__:main"),
    "arena": ("ask a chatbot for an encoder and check it in a sandbox", "jaxsd.arena.__main__:main"),
}


def main():
    """Run the command that the first argument names, with the rest of the arguments."""
    cli.run(_dispatch)


def _dispatch() -> int | None:
    epilog = "\n".join(f"  {name:<10}{about}" for name, (about, _) in COMMANDS.items())
    parser = cli.ArgumentParser(
        prog="jaxsd",
        description="Sound to image: audio encoders and Stable Diffusion 1.x in JAX.",
        epilog=f"commands (each has its own --help):\n{epilog}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("command", nargs="?", choices=COMMANDS, metavar="COMMAND")
    arguments = parser.parse_args(sys.argv[1:2])
    if arguments.version:
        import jaxsd

        print(jaxsd.__version__)
        return None
    if arguments.command is None:
        parser.print_help()
        return None
    sys.argv = [f"jaxsd {arguments.command}", *sys.argv[2:]]
    module, _, function = COMMANDS[arguments.command][1].partition(":")
    return getattr(importlib.import_module(module), function)()
