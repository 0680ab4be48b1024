"""Train an audio encoder: python train.py --config gemini.py:aligned --config.data.folder=data/avt"""

import argparse
from pathlib import Path

from jaxsd import cli
from jaxsd.settings import add_config_argument, load_config


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_argument(parser)
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/<config>); goes on if it has begun")
    parser.add_argument("--init", metavar="FOLDER", help="start from another run's encoder; same as --config.init")
    cli.add_distributed_arguments(parser)
    arguments, overrides = parser.parse_known_args()
    if arguments.init:
        overrides.append(f"--config.init={arguments.init}")
    config = load_config(arguments.config, overrides)
    name, _, recipe = arguments.config.partition(":")
    out = arguments.out or Path("runs") / "-".join([Path(name).stem, recipe]).rstrip("-")
    cli.start_distributed(arguments)

    from jaxsd.toy.recipe import make_data  # imports jax: after the arguments are known to be right
    from jaxsd.training import train

    make_data(config)
    train(config, out)
    print(out)


if __name__ == "__main__":
    cli.run(main)
