"""Train an audio encoder: python train.py --config toy.py"""

import argparse
from pathlib import Path

from jaxsd import cli
from jaxsd.settings import add_config_argument, load_config


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_argument(parser)
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/<config>); goes on if it has begun")
    arguments, overrides = parser.parse_known_args()
    config = load_config(arguments.config, overrides)
    out = arguments.out or Path("runs") / Path(arguments.config.split(":")[0]).stem

    from jaxsd.toy.recipe import train  # imports jax: after the arguments are known to be right

    train(config, out)
    print(out)


if __name__ == "__main__":
    cli.run(main)
