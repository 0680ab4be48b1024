"""The data of a run: made where a config says what makes them, opened, and identified by their content."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsd.config import RunConfig
from jaxsd.data.columns import METADATA, open_columns, read_metadata, verify_columns
from jaxsd.data.loader import shuffled
from jaxsd.runtime.bundled import load_maker
from jaxsd.training.run_config import identify_data


def count_steps(config: RunConfig, examples: int) -> int:
    """The steps of a training on so many examples. Raises ValueError where these fill no batch, or warm-up is all."""
    shuffled(examples, config.batch_size, config.seed)
    steps = config.steps or config.epochs * (examples // config.batch_size)
    if config.warmup >= steps:
        raise ValueError(f"warmup is {config.warmup}; it must be less than the steps of training, {steps}")
    return steps


def make_data(config: RunConfig):
    """Make the splits that are missing, where the config says what makes them."""
    if config.data.maker:
        maker = load_maker(config.data.maker)
        for split, size in (("train", config.data.train_size), ("validation", config.data.held_out)):
            maker.make_split(Path(config.data.folder) / split, split, size)


def model_names(config: RunConfig) -> dict[str, Any]:
    """The dataset.json that names the models of the data: that of the data, or what the maker will write there.

    Raises FileNotFoundError that says how data are made where there are none.
    """
    path = Path(config.data.folder) / "train" / METADATA
    if config.data.maker and not path.is_file():
        return load_maker(config.data.maker).MODELS
    _check_there(config, "train")
    return read_metadata(path.parent)


def open_split(config: RunConfig, split: str, columns: Sequence[str]) -> dict[str, np.ndarray]:
    """The columns of a split of the data, with `columns` among them.

    Raises FileNotFoundError or ValueError that say how to make what is missing.
    """
    folder = Path(config.data.folder) / split
    _check_there(config, split)
    found = open_columns(folder)
    if missing := [name for name in columns if name not in found]:
        latents = " --latents" * ("latents" in missing)
        raise ValueError(f"{folder} has no column {missing[0]}; {_prepare_command(config)}{latents} makes it")
    if not len(found[columns[0]]):
        raise ValueError(f"{folder} holds no examples; prepare the data with more of them for {split}")
    return found


def identify_splits(config: RunConfig, splits: Sequence[str], columns: Sequence[str]) -> dict[str, Any]:
    """What `identify_data` says of splits of the data, whose columns are compared with their digests."""
    folders = {split: Path(config.data.folder) / split for split in splits}
    for folder in folders.values():
        verify_columns(folder, columns)
    metadata = {split: read_metadata(folder) for split, folder in folders.items()}
    return identify_data(metadata, sorted(columns))


def _check_there(config: RunConfig, split: str):
    folder = Path(config.data.folder) / split
    if not (folder / METADATA).is_file():
        raise FileNotFoundError(f"{folder} holds no data; {_prepare_command(config)} makes it")


def _prepare_command(config: RunConfig) -> str:
    return f"python -m jaxsd.data prepare MANIFEST --out {config.data.folder}"
