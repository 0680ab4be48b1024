"""Trains an encoder on the toy world, with the bundled CLIP and Stable Diffusion."""

from pathlib import Path

from flax import nnx
from ml_collections import ConfigDict

from jaxsd.clip.pipeline import CLIP
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.toy.bundled import WEIGHTS
from jaxsd.toy.dataset import write_dataset
from jaxsd.training import train_encoder


def train(config: ConfigDict, folder: Path, weights: Path = WEIGHTS) -> nnx.Module:
    """Make the data if they are not there, then train as `config` says into `folder`.

    Raises ValueError for a config of other data.
    """
    if config.data.kind != "toy":
        raise ValueError("only the toy world can be trained on so far: --config toy.py")
    for split, size in (("train", config.data.train_size), ("validation", config.data.held_out)):
        write_dataset(Path(config.data.folder) / split, split, size, weights)
    projection = CLIP.from_pretrained(weights / "clip").model.text_projection.kernel[...]
    return train_encoder(config, folder, StableDiffusion.from_pretrained(weights), projection)
