"""Training on the toy world, whose data are made where they are missing."""

from pathlib import Path

from flax import nnx

from jaxsd.bundled import TOY_MODEL
from jaxsd.config import TrainConfig
from jaxsd.toy.dataset import write_dataset
from jaxsd.training import train as training


def train(config: TrainConfig, folder: Path, weights: Path = TOY_MODEL) -> nnx.Module:
    """Train as `config` says into `folder`, with the models in `weights`, after making its data."""
    make_data(config, weights)
    return training.train(config, folder)


def make_data(config: TrainConfig, weights: Path = TOY_MODEL):
    """Make the data of a config that says how many rows of the toy world it wants, unless they are there.

    Raises ValueError where the config cannot be trained.
    """
    training.validate_config(config)
    if config.data.maker == "toy":
        for split, size in (("train", config.data.train_size), ("validation", config.data.held_out)):
            write_dataset(Path(config.data.folder) / split, split, size, weights)
