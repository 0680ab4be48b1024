"""Train an audio encoder: python train.py --config gemini.py:aligned --config.data.folder=data/avt"""

import argparse
from pathlib import Path

from jaxsd import cli
from jaxsd.config import add_config_argument, load_config


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_argument(parser)
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/<config>); goes on if it has begun")
    parser.add_argument("--init", metavar="FOLDER", help="start from another run's encoder; same as --config.init")
    parser.add_argument("--wandb", action="store_true", help="also log to Weights & Biases")
    cli.add_distributed_arguments(parser)
    arguments, overrides = parser.parse_known_args()
    if arguments.init:
        overrides.append(f"--config.init={arguments.init}")
    config = load_config(arguments.config, overrides)
    name, _, recipe = arguments.config.partition(":")
    out = arguments.out or Path("runs") / "-".join([Path(name).stem, recipe]).rstrip("-")
    cli.start_distributed(arguments)

    from jaxsd.bundled import load_maker
    from jaxsd.training.train import train, validate_config

    validate_config(config)
    if config.data.maker:
        for split, size in (("train", config.data.train_size), ("validation", config.data.held_out)):
            load_maker(config.data.maker).make_split(Path(config.data.folder) / split, split, size)
    train(config, out, wandb=arguments.wandb)
    print(out)


if __name__ == "__main__":
    cli.run(main)
