"""Config files and their overrides: `--config gemini.py:paper --config.batch_size=64`.

A config file is Python and holds `get_config(recipe: str = "") -> ml_collections.ConfigDict`. Where other values follow
from one, get_config takes it as a further argument, of type str, and is given its override.

args, rest = parser.parse_known_args()
config = load_config(args.config, rest)
"""

import argparse
import difflib
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
PREFIX = "--config."
BOOLEANS = {"true": True, "false": False}


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--config FILE[:RECIPE]`; `parse_known_args` then leaves the overrides for `load_config`."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE[:RECIPE]",
        help=f"a Python file, or one of {', '.join(config_files())}; --config.KEY=VALUE overrides a value",
    )


def load_config(spec: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The locked config of `spec`, FILE[:RECIPE], with `--config.KEY=VALUE` or `--config.KEY VALUE` applied in order.

    FILE is a path, or the name of a file in configs/; `.py` may be left out. Raises ValueError, in one sentence, where
    there is no such file, recipe or key or a value has not the type of the one it replaces, and whatever the file does.
    """
    name, _, recipe = spec.partition(":")
    path = find_config(name)
    get_config = getattr(_execute(path), "get_config", None)
    if get_config is None:
        raise ValueError(f"{path} holds no get_config(), which a config file must")
    config = get_config(recipe) if recipe else get_config()
    if not isinstance(config, ConfigDict):
        raise ValueError(f"get_config() of {path} gives a {type(config).__name__}; it must give a ConfigDict")
    pairs = list(_pairs(overrides, config))
    wanted = list(inspect.signature(get_config).parameters)[1:]
    if chosen := {key: text for key, text in pairs if key in wanted}:
        config = get_config(recipe, **chosen)
    config.lock()
    for key, text in pairs:
        override(config, key, text)
    return config


def config_files() -> list[str]:
    """The names of the files in configs/ that are configs."""
    return sorted(path.name for path in CONFIGS.glob("*.py") if "def get_config(" in path.read_text())


def find_config(name: str) -> Path:
    """The file that `name` means: an existing path, else one in configs/. Raises ValueError that lists those there."""
    file = Path(name if name.endswith(".py") else f"{name}.py")
    for path in (file, CONFIGS / file):
        if path.is_file():
            return path
    raise ValueError(f"no config file {name!r}; there are {', '.join(config_files())}, or give a path")


def override(config: ConfigDict, key: str, text: str) -> None:
    """Set the value at a dotted `key` to what `text` says, read as the type of the value there.

    Raises ValueError that names the nearest key, or the type.
    """
    *parents, leaf = key.split(".")
    section = config
    for parent in parents:
        section = section.get(parent) if isinstance(section, ConfigDict) else None
    if not isinstance(section, ConfigDict) or leaf not in section:
        raise ValueError(f"no config key {key!r}{_nearest(key, _keys(config))}")
    if isinstance(section[leaf], ConfigDict):
        raise ValueError(f"{key} is a section; set one of {', '.join(f'{key}.{name}' for name in section[leaf])}")
    try:
        section[leaf] = _parse(text, section.get_type(leaf), section[leaf])
    except ValueError as error:
        raise ValueError(f"{key} must be {error}, not {text!r}") from None


def one_of(what: str, name: str, choices: Iterable[str]) -> str:
    """`name`, which must be one of `choices`. Raises ValueError that lists them."""
    choices = list(choices)
    if name not in choices:
        raise ValueError(f"unknown {what} {name!r}; choose from {', '.join(choices)}")
    return name


def _execute(path: Path) -> Any:
    """The module in a file, which may import others of configs/."""
    if str(ROOT) not in sys.path:
        sys.path.append(str(ROOT))
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _pairs(arguments: Sequence[str], config: ConfigDict) -> Iterator[tuple[str, str]]:
    """Key and text of each override, written as one argument or as two."""
    remaining = iter(arguments)
    for argument in remaining:
        option, equals, text = argument.partition("=")
        if not option.startswith(PREFIX):
            keys = [PREFIX + key for key in _keys(config)]
            raise ValueError(f"unknown argument {argument!r}{_nearest(PREFIX + option.lstrip('-'), keys)}")
        key = option.removeprefix(PREFIX)
        if not equals:
            text = next(remaining, PREFIX)
        if text.startswith(PREFIX):
            raise ValueError(f"{option} needs a value")
        yield key, text


def _keys(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key


def _nearest(key: str, keys: Iterable[str]) -> str:
    """A clause that names the key meant, by whole key or last part, or lists all where none is near."""
    keys = list(keys)
    by_leaf = {known.rpartition(".")[2]: known for known in keys}
    if found := difflib.get_close_matches(key, keys, n=1):
        return f"; did you mean {found[0]!r}?"
    if found := difflib.get_close_matches(key.rpartition(".")[2], by_leaf, n=1):
        return f"; did you mean {by_leaf[found[0]]!r}?"
    return f"; there are {', '.join(keys)}"


def _parse(text: str, kind: type, old: Any) -> Any:
    """`text` as a `kind`; the parts of a tuple are of the kind of the old one's first. Raises ValueError: "an int"."""
    if kind is str:
        return text
    if kind is bool:
        if text.lower() not in BOOLEANS:
            raise ValueError("true or false")
        return BOOLEANS[text.lower()]
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ValueError("an int" if kind is int else "a float") from None
    if kind is tuple:
        part = type(old[0]) if old else str
        parts = [item.strip(" '\"") for item in text.strip("() ").split(",") if item.strip()]
        try:
            return tuple(_parse(item, part, ()) for item in parts)
        except ValueError as error:
            raise ValueError(f"a tuple, each part {error}") from None
    raise ValueError(f"set in the config file, being a {kind.__name__}")
