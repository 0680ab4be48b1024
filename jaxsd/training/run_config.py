"""What a run began with: config.json and data.json in its folder. It goes on with the same config on the same data."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxsd.config import RunConfig, one_of
from jaxsd.runtime.files import check_output_folder, read_json, write_json
from jaxsd.training.optimizers import OPTIMIZERS, SCHEDULES

CONFIG_JSON, DATA_JSON, CHECKPOINTS = "config.json", "data.json", "checkpoints"
TRAINING_DTYPES = ("auto", "float32", "bfloat16")
NUMBERS = ("epochs", "steps", "warmup", "eval_every", "sample_images", "weight_decay", "clip_norm", "learning_rate")
NUMBERS += ("seed",)  # from 0
# Values that do not change what is trained. Where data are is no property of them: data.json says what they are.
CHANGEABLE = ("data.", "save_every", "eval_every", "sample_images")


def validate_run_config(config: RunConfig) -> None:
    """Raise ValueError, in one sentence, for values that no training can have."""
    one_of("optimizer", config.optimizer, OPTIMIZERS)
    one_of("schedule", config.schedule, SCHEDULES)
    one_of("dtype", config.dtype, TRAINING_DTYPES)
    if (config.epochs > 0) == (config.steps > 0):
        raise ValueError(f"epochs is {config.epochs} and steps is {config.steps}; one of them must be 0, not both")
    for key in ("batch_size", "accumulate", "save_every"):
        if getattr(config, key) < 1:
            raise ValueError(f"{key} is {getattr(config, key)}; it must be at least 1")
    check_not_negative(config, NUMBERS)
    for key in ("train_size", "held_out"):
        if config.data.maker and getattr(config.data, key) < 1:
            raise ValueError(f"data.{key} is {getattr(config.data, key)}; it must be at least 1")
    if config.weight_decay and config.optimizer != "adamw":
        raise ValueError(f"weight_decay is {config.weight_decay}, which needs --config.optimizer=adamw")
    if not 0 <= config.average_decay < 1:
        raise ValueError(f"average_decay is {config.average_decay}; allowed: 0 to below 1")
    if config.steps and config.warmup >= config.steps:
        raise ValueError(f"warmup is {config.warmup}; it must be less than the steps of training, {config.steps}")


def check_not_negative(config: RunConfig, keys: Iterable[str]) -> None:
    """Raise ValueError where the value of one of these keys is negative or not finite."""
    for key in keys:
        value = getattr(config, key)
        if value < 0:
            raise ValueError(f"{key} is {value}; it must not be negative")
        if not math.isfinite(value):
            raise ValueError(f"{key} is {value}; it must be finite")


def check_run_config(folder: Path, config: RunConfig) -> str:
    """Check that the run in `folder`, where there is one, can go on with `config`.

    More steps or epochs are allowed. Returns what these mean, in a sentence, or "". Raises ValueError, naming what
    differs, for another config, or where `folder` is a file or holds a run whose config is not there.
    """
    check_output_folder(folder)
    path = folder / CONFIG_JSON
    if not path.is_file():
        if any((folder / CHECKPOINTS).glob("*")):
            raise ValueError(f"{path} is missing, though {folder} holds a run; bring it back, or choose another --out")
        return ""
    try:
        began = type(config).from_dict(read_json(path))
    except ValueError as error:
        raise ValueError(f"{path} is not the config of a run that can go on: {error}; choose another --out") from None
    old, new = _flat(began.to_dict()), _flat(config.to_dict())
    different = [key for key in old | new if old.get(key) != new.get(key) and not key.startswith(CHANGEABLE)]
    more = [key for key in different if key in ("steps", "epochs") and 0 < old[key] < new[key]]
    if refused := [key for key in different if key not in more]:
        changes = "; ".join(f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in refused)
        raise ValueError(f"{folder} holds a run of another config ({changes}); choose another --out")
    if not more:
        return ""
    longer = f"{folder} goes on to {new[more[0]]} {more[0]} in place of {old[more[0]]}"
    if config.schedule == "constant":
        return longer
    return (
        f"{longer}; the {config.schedule} schedule is that of the longer training from here on, so the learning rate "
        "may rise, and the result is not that of a training which was this long from the start"
    )


def check_run_data(folder: Path, config: RunConfig, data: dict[str, Any]) -> None:
    """Check that the run in `folder`, where there is one, began with `data`, of `identify_data`.

    A run without data.json began with the data in the folder that its config names. Raises ValueError otherwise.
    """
    if (folder / DATA_JSON).is_file():
        same = read_json(folder / DATA_JSON) == data
    elif (folder / CONFIG_JSON).is_file():
        same = read_json(folder / CONFIG_JSON).get("data", {}).get("folder") == config.data.folder
    else:
        return
    if not same:
        raise ValueError(f"{folder} holds a run on other data than those in {config.data.folder}; choose another --out")


def identify_data(metadata: Mapping[str, Mapping[str, Any]], columns: list[str]) -> dict[str, Any]:
    """What the splits are, by their dataset.json, wherever they are: the digests of the columns that training reads."""
    return {
        split: {name: content["sha256"][name] for name in columns} if "sha256" in content else dict(content)
        for split, content in metadata.items()
    }


def write_run_config(folder: Path, config: RunConfig, data: dict[str, Any]) -> None:
    """Write config.json and data.json."""
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / DATA_JSON, data)
        write_json(folder / CONFIG_JSON, config.to_dict())


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones."""
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
