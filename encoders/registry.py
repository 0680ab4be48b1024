"""The names of encoders, and encoders of their classes."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from flax import nnx

ENCODERS: dict[str, type[nnx.Module]] = {}  # those registered so far; `encoders.catalog` registers the bundled ones

# Arguments of an encoder's class that are no sizes: they change how it computes, or its first values.
NOT_SIZES = ("dtype", "param_dtype", "rngs")
LARGEST_SIZE = 65_536  # of a bundled encoder: beyond it, there are typing errors and damaged files

Class = TypeVar("Class", bound=type[nnx.Module])


def register(name: str) -> Callable[[Class], Class]:
    """A class decorator that makes an encoder known by `name`. Raises ValueError if another class has that name."""

    def add(cls: Class) -> Class:
        if name in ENCODERS:
            raise ValueError(f"two encoders are named {name!r}: {ENCODERS[name].__qualname__} and {cls.__qualname__}")
        ENCODERS[name] = cls
        return cls

    return add


def bundled_name(cls: type[nnx.Module]) -> str | None:
    """The name by which a class is registered, or None."""
    return next((name for name, registered in ENCODERS.items() if registered is cls), None)


def create_from_class(cls: type[nnx.Module], *, rngs: nnx.Rngs, **config: Any) -> nnx.Module:
    """`encoders.create` of a class in place of a name."""
    accepted = _parameters_of(cls)
    if bundled_name(cls) is None and "dtype" not in accepted:
        config.pop("dtype", None)
    sizes = {key: value for key, value in config.items() if key not in NOT_SIZES}
    _check_sizes(cls, sizes)
    encoder = cls(**config | {"rngs": rngs})
    encoder.eval()
    kept = getattr(encoder, "config", {}) if sizes else {}
    for key, value in sizes.items():
        if key not in kept or kept[key] != value:
            raise ValueError(
                f"{cls.__name__} was given {key}={value!r}, which its property `config` does not return; "
                "let `config` return every size, so that a saved encoder can be made again"
            )
    return encoder


def size_names(cls: type[nnx.Module]) -> list[str]:
    """The keyword arguments of a class that are sizes."""
    keyword = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = _parameters_of(cls).values()
    return [p.name for p in parameters if p.kind in keyword and p.name not in NOT_SIZES]


def takes_rngs(encoder: nnx.Module) -> bool:
    """Whether `encoder(clips, rngs=...)` is a call that turns dropout on."""
    return "rngs" in inspect.signature(type(encoder).__call__).parameters


def _parameters_of(cls: type[nnx.Module]) -> dict[str, inspect.Parameter]:
    """The arguments of a class by name; what nnx wraps around `__init__` has another signature."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    return {parameter.name: parameter for parameter in parameters if parameter.name != "self"}


def _check_sizes(cls: type[nnx.Module], sizes: dict[str, Any]) -> None:
    parameters = _parameters_of(cls)
    anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for key, value in sizes.items():
        if key not in parameters and not anything:
            allowed = ", ".join(size_names(cls)) or "it takes no sizes"
            raise ValueError(f"{cls.__name__} has no size {key!r}; allowed: {allowed}")
        if bundled_name(cls) and type(parameters[key].default) is int:
            if type(value) is not int or not 1 <= value <= LARGEST_SIZE:
                raise ValueError(f"{key} must be an integer from 1 to {LARGEST_SIZE}, not {value!r}")
