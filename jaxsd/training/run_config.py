"""The config.json of a run's folder: a run goes on with the config that it began with."""

from pathlib import Path
from typing import Any

import jax

from jaxsd.config import TrainConfig
from jaxsd.files import read_json, write_json

CONFIG_JSON = "config.json"


def check_run_config(folder: Path, config: TrainConfig):
    """Raise ValueError, naming what differs, where `folder` holds a run of another config."""
    path = folder / CONFIG_JSON
    if not path.is_file():
        return
    try:
        old, new = _flat(TrainConfig.from_dict(read_json(path)).to_dict()), _flat(config.to_dict())
    except ValueError as error:
        raise ValueError(f"{path} is not the config of a run that can go on: {error}; choose another --out") from None
    different = [key for key in old | new if old.get(key) != new.get(key)]
    if different:
        changes = "; ".join(f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in different)
        raise ValueError(f"{folder} holds a run of another config ({changes}); choose another --out")


def write_run_config(folder: Path, config: TrainConfig):
    """Write config.json, where there is none."""
    path = folder / CONFIG_JSON
    if not path.is_file() and jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, config.to_dict())


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones."""
    flat = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
