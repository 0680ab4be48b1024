"""Reading the `config.json` of a Hugging Face model into a dataclass."""

import dataclasses
import json
from pathlib import Path


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


def read_config(cls, path):
    """A `cls` filled from the keys of `path` that it names.

    Keys in `cls.FIXED` must be absent or have that value; others are ignored, as Hugging Face does.
    Raises ValueError naming the file, the key and what is allowed.
    """
    values = read_json(path)
    for key, allowed in cls.FIXED.items():
        if key in values and values[key] != allowed:
            raise ValueError(
                f"{path}: {key} is {values[key]!r}, but Stable Diffusion 1.x has {allowed!r}: this is another model"
            )
    fields = {}
    for field in dataclasses.fields(cls):
        if field.name in values:
            value = values[field.name]
            fields[field.name] = tuple(value) if isinstance(value, list) else value
    return cls(**fields)
