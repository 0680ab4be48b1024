"""Reading the `config.json` of a Hugging Face model into a dataclass."""

import dataclasses
import types
import typing
from typing import Any, TypeVar

from jaxsd.runtime.files import read_json

Config = TypeVar("Config")

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", types.NoneType: "null"}


def read_model_config(cls: type[Config], path) -> Config:
    """The dataclass `cls` filled from a `config.json`. Raises FileNotFoundError, or ValueError as `from_dict` does."""
    return from_dict(cls, read_json(path), path)


def from_dict(cls: type[Config], values: dict[str, Any], name) -> Config:
    """The dataclass `cls` filled from the keys of `values` that it names. Other keys are ignored, as Hugging Face does.

    A list of equal values stands for the value, as diffusers has it for the blocks of a U-Net. Keys in `cls.FIXED` must
    be absent or have that value. Raises ValueError naming `name` (the file), the key and what is allowed.
    """
    for key, allowed in getattr(cls, "FIXED", {}).items():
        if key in values and values[key] != allowed and not _all_equal(values[key], allowed):
            raise ValueError(f"{name}: {key} is {values[key]!r}; this model has {allowed!r}")
    chosen = {}
    for key, hint in typing.get_type_hints(cls).items():
        if key not in values:
            continue
        try:
            chosen[key] = _converted(values[key], hint)
        except TypeError:
            raise ValueError(f"{name}: {key} is {values[key]!r}; allowed: {_described(hint)}") from None
    try:
        return cls(**chosen)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from None


def to_json(config) -> dict[str, Any]:
    """What a `config.json` says of a dataclass: its fields and, where it has some, its FIXED values."""
    return {**getattr(config, "FIXED", {}), **dataclasses.asdict(config)}


def _converted(value: Any, hint: Any) -> Any:
    """A JSON value as what the type hint of a field says. Raises TypeError where it cannot be that."""
    if hint is Any:
        return value
    if isinstance(hint, types.UnionType):
        if value is None and types.NoneType in typing.get_args(hint):
            return None
        for option in typing.get_args(hint):
            try:
                return _converted(value, option)
            except TypeError:
                continue
        raise TypeError
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple) or not value:
            raise TypeError
        return tuple(_converted(item, typing.get_args(hint)[0]) for item in value)
    if isinstance(value, list) and value and _all_equal(value, value[0]):
        return _converted(value[0], hint)
    if hint is bool and value is None:  # diffusers takes it so
        return False
    if isinstance(value, bool) is not (hint is bool):
        raise TypeError
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if hint is float and isinstance(value, int):
        return float(value)
    if not isinstance(value, hint):
        raise TypeError
    return value


def _all_equal(values: Any, value: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(item == value for item in values)


def _described(hint: Any) -> str:
    """A type hint in words."""
    if isinstance(hint, types.UnionType):
        return " or ".join(_described(option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"a list, each {_described(typing.get_args(hint)[0])}"
    return WORDS.get(hint, "any value")
