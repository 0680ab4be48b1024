"""Reading the `config.json` of a Hugging Face model into a dataclass."""

import dataclasses
import json
from pathlib import Path

from jaxsd.atomic import replacing


def read_json(path) -> dict:
    """The object in a JSON file. Raises FileNotFoundError or ValueError naming the file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        value = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: holds a JSON {type(value).__name__}, not an object")
    return value


def fill(cls, values: dict, name):
    """The dataclass `cls` filled from the keys of `values` that it names; other keys are ignored, as Hugging Face does.

    Keys in `cls.FIXED` must be absent or have that value. Raises ValueError naming `name` (the file), the key and
    what is allowed.
    """
    for key, allowed in getattr(cls, "FIXED", {}).items():
        if key in values and values[key] != allowed:
            raise ValueError(f"{name}: {key} is {values[key]!r}; this model has {allowed!r}")
    chosen = {field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values}
    chosen = {key: tuple(value) if isinstance(value, list) else value for key, value in chosen.items()}
    try:
        return cls(**chosen)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from None


def to_json(config) -> dict:
    """What a `config.json` says of a dataclass: its fields and, where it has some, its FIXED values."""
    return {**getattr(config, "FIXED", {}), **dataclasses.asdict(config)}


def write_json(path, value: dict):
    """Write `value` as indented JSON, whole or not at all."""
    with replacing(path) as part:
        part.write_text(json.dumps(value, indent=2) + "\n")
