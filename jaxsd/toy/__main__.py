"""The toy world: python -m jaxsd.toy demo | train | sheet."""

import argparse
from pathlib import Path

from jaxsd import cli


def main():
    parser = argparse.ArgumentParser(prog="python -m jaxsd.toy", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("demo", help="train an encoder briefly, evaluate it, draw the sample sounds")
    command.add_argument("--out", type=Path, default=Path("runs/demo"))
    command = commands.add_parser("train", help="train the toy world's models from a seed; goes on where it stopped")
    command.add_argument("--out", type=Path, default=Path("runs/toy-world"))
    command.add_argument("--seed", type=int, default=0)
    command = commands.add_parser("sheet", help="draw the sample sounds with the bundled encoder")
    command.add_argument("--out", type=Path, default=Path("out/contact-sheet.png"))
    arguments = parser.parse_args()

    # Imported here, for they import jax: after the arguments are known to be right.
    if arguments.command == "demo":
        from jaxsd.toy.demo import demo

        print(demo(arguments.out))
    elif arguments.command == "train":
        from jaxsd.toy.train import run

        print(run(arguments.out, arguments.seed))
    else:
        from jaxsd.toy.demo import sample_sheet

        print(sample_sheet(arguments.out))


if __name__ == "__main__":
    cli.run(main)
