"""Reading the `config.json` of a Hugging Face model into a dataclass."""

import dataclasses

from jaxsd.files import read_json


def read_model_config(cls, path):
    """The dataclass `cls` filled from a `config.json`. Raises FileNotFoundError, or ValueError as `from_dict` does."""
    return from_dict(cls, read_json(path), path)


def from_dict(cls, values: dict, name):
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
