"""Configs of training, and their overrides: `--config gemini.py:paper --config.batch_size=64`.

A config file is Python and holds `get_config(recipe: str = "")`, which returns a TrainConfig or a LoRAConfig. Where
other values follow from one, get_config takes that one as a further argument, of type str, and is given its override.

arguments, rest = parser.parse_known_args()
config = load_config(arguments.config, rest)
"""

import argparse
import ast
import dataclasses
import difflib
import importlib.machinery
import importlib.util
import inspect
import json
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

PACKAGE = Path(__file__).resolve().parent
# Installed, the config files are the package jaxsd.configs; in a checkout they stand beside jaxsd.
CONFIGS = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PACKAGE.parent / "configs"
OVERRIDE = "--config."
BOOLEANS = {"true": True, "false": False}
TYPE_NAMES = {str: "a string", bool: "true or false", int: "an int", float: "a float", dict: "a mapping"}
AnyRunConfig = TypeVar("AnyRunConfig", bound="RunConfig")


@dataclass(frozen=True)
class DataConfig:
    """The data set to train on, and how it is made where it can be made."""

    folder: str = "data/avt"
    maker: str = ""  # what makes the splits that are missing: a name of jaxsd.runtime.bundled.MAKERS, or "" for nothing
    train_size: int = 0  # examples that the maker makes to train on
    held_out: int = 0  # examples that the maker makes of each held-out split


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The values that every training has, whatever it trains."""

    data: DataConfig = field(default_factory=DataConfig)
    # For how long: epochs or steps, the other being 0.
    epochs: int = 32
    steps: int = 0
    batch_size: int = 1151
    # The paper gives the learning rate and no more.
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    schedule: str = "constant"
    warmup: int = 0  # steps
    weight_decay: float = 0.0
    clip_norm: float = 0.0  # 0: no clipping
    average_decay: float = 0.0  # of the moving average of the parameters, which is what a run leaves; 0: the last ones
    # How it is computed: this changes the result by rounding, and accumulate by what dropout draws, but no further.
    accumulate: int = 1  # parts in which a batch is computed
    remat: bool = False  # compute activations again instead of keeping them
    dtype: str = "auto"  # bfloat16 on an accelerator, float32 on a CPU
    seed: int = 0
    save_every: int = 1000  # steps
    eval_every: int = 0  # steps; 0: every epoch
    sample_images: int = 0  # images that each validation draws, of held-out sounds or captions

    @classmethod
    def from_dict(cls: type[AnyRunConfig], values: Mapping[str, Any]) -> AnyRunConfig:
        """The config of nested mappings, such as a run's config.json; a key that is absent has its default.

        Raises ValueError for an unknown key, a value of another type or an absent key without a default.
        """
        return _from_dict(cls, values)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """One line of JSON with sorted keys; equal configs give equal lines."""
        return json.dumps(self.to_dict(), sort_keys=True)


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """All values of the training of an encoder. The defaults are the paper's, to the letter (arXiv 2509.09717)."""

    encoder: str  # a name of encoders.ENCODERS, or an own encoder as "path/to/file.py:Class"
    encoder_config: dict[str, Any]  # the encoder's sizes
    init: str = ""  # a folder with an encoder to start from
    # The losses of jaxsd.training.losses.LOSSES, and how much each weighs.
    weights: dict[str, float] = field(default_factory=lambda: {"contrastive": 1.0, "sequence": 0.0, "denoise": 0.0})
    text_pooling: str = "eos"  # CLIP's own; "bos", a constant, gives the published numbers
    audio_pooling: str = "mean"  # the paper does not say which of the 77 embeddings, or that it is their mean
    learned_temperature: bool = False
    dropout: bool = True
    denoise_batch: int = 0  # the examples of a batch that go through the U-Net; 0: all
    branch_init: float = 1.0  # scales the initial last kernels of a Transformer's residual branches
    position_init: float = 1.0  # scales a Transformer's initial position embeddings

    @property
    def own_encoder(self) -> bool:
        """Whether the encoder is a class in a Python file."""
        return is_own_encoder(self.encoder)


@dataclass(frozen=True)
class LoRAConfig(RunConfig):
    """All values of the training of a LoRA of the U-Net, by its denoising loss."""

    # What the U-Net attends to: "" the captions, else the sounds, by an encoder (its name, a folder or a repository).
    encoder: str = ""
    rank: int = 8  # of every layer; alpha is the rank
    layers: str = "attention"  # a key of jaxsd.training.lora_layers.LAYERS
    names: str = "diffusers"  # whose names the file has: diffusers' or "kohya"
    epochs: int = 0
    steps: int = 300
    batch_size: int = 4
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    save_every: int = 100
    eval_every: int = 100
    sample_images: int = 4

    @property
    def denoise_batch(self) -> int:
        """As that of TrainConfig: all examples of a batch go through the U-Net."""
        return 0


def is_own_encoder(name: str) -> bool:
    """Whether `name` is that of a class in a Python file: "path/to/file.py:Class"."""
    return name.rpartition(":")[0].endswith(".py") or name.endswith(".py")


def deep_merge(base: Mapping[str, Any], *changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, later ones first; nested mappings are merged key by key."""
    merged = dict(base)
    for change in changes:
        for key, value in change.items():
            old = merged.get(key)
            merged[key] = deep_merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--config FILE[:RECIPE]`; `parse_known_args` then leaves the overrides for `load_config`."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE[:RECIPE]",
        help=f"a Python file, or one of {', '.join(config_files())}; --config.KEY=VALUE overrides a value",
    )


def load_config(spec: str, overrides: Sequence[str] = ()) -> TrainConfig:
    """The config of the training of an encoder; `load_run_config` says how, and what is raised."""
    config = load_run_config(spec, overrides)
    if not isinstance(config, TrainConfig):
        raise ValueError(f"{spec} is the config of a {type(config).__name__}, which trains no encoder")
    return config


def load_run_config(spec: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The config of `spec`, FILE[:RECIPE], with `--config.KEY=VALUE` or `--config.KEY VALUE` applied in order.

    FILE is a path, or the name of a file in configs/; `.py` may be left out. Raises ValueError, in one sentence, where
    there is no such file, recipe or key or a value is of another type than the key's, and whatever the file raises.
    """
    name, _, recipe = spec.partition(":")
    path = find_config(name)
    get_config = getattr(_execute(path), "get_config", None)
    if get_config is None:
        raise ValueError(f"{path} holds no get_config(), which a config file must")

    def called(**chosen: str) -> RunConfig:
        config = get_config(recipe, **chosen) if recipe or chosen else get_config()
        if not isinstance(config, RunConfig):
            raise ValueError(
                f"get_config() of {path} returns a {type(config).__name__}; it must return a jaxsd.config.TrainConfig "
                "or LoRAConfig"
            )
        return config

    pairs = list(_pairs(overrides))
    parameters = list(inspect.signature(get_config).parameters)[1:]
    config = called(**{key: text for key, text in pairs if key in parameters})
    for key, text in pairs:
        config = override(config, key, text)
    return config


def config_files() -> list[str]:
    """The names of the files in configs/ that are configs."""
    return sorted(path.name for path in CONFIGS.glob("*.py") if "def get_config(" in path.read_text())


def find_config(name: str) -> Path:
    """The file that `name` means: an existing path, else one in configs/. Raises ValueError that lists the latter."""
    file = Path(name if name.endswith(".py") else f"{name}.py")
    for path in (file, CONFIGS / file):
        if path.is_file():
            return path
    raise ValueError(f"no config file {name!r}; there are {', '.join(config_files())}, or give a path")


def override(config: AnyRunConfig, key: str, text: str) -> AnyRunConfig:
    """`config` with the value at a dotted `key` as `text` gives it, read as the type of that key.

    An own encoder's `encoder_config` takes new keys too; their values are Python literals, or else strings.
    Raises ValueError that names the nearest key, or the type.
    """
    types = dict(_leaves(config))
    if key in types:
        try:
            value = _parse(text, types[key])
        except ValueError:
            raise ValueError(f"{key} must be {TYPE_NAMES[types[key]]}, not {text!r}") from None
    elif (
        isinstance(config, TrainConfig)
        and config.own_encoder
        and key.startswith("encoder_config.")
        and key.count(".") == 1
    ):
        value = _literal(text)
    elif section := [known for known in types if known.startswith(f"{key}.")]:
        raise ValueError(f"{key} is a section; set one of {', '.join(section)}")
    else:
        raise ValueError(f"no config key {key!r}{_nearest(key, types)}")
    for part in reversed(key.split(".")):
        value = {part: value}
    return type(config).from_dict(deep_merge(config.to_dict(), value))


def one_of(what: str, name: str, choices: Iterable[str]) -> str:
    """`name`, which must be one of `choices`. Raises ValueError that lists them."""
    choices = list(choices)
    if name not in choices:
        raise ValueError(f"unknown {what} {name!r}; choose from {', '.join(choices)}")
    return name


def _execute(path: Path) -> ModuleType:
    """The module in a file, which may import jaxsd.configs."""
    if "jaxsd.configs" not in sys.modules:  # else an editable install of another checkout may stand for it
        package = importlib.machinery.ModuleSpec("jaxsd.configs", None, is_package=True)
        package.submodule_search_locations = [str(CONFIGS)]
        sys.modules["jaxsd.configs"] = importlib.util.module_from_spec(package)
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    assert spec and spec.loader  # as of every .py file
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise ValueError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    return module


def _pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Key and text of each override, written as one argument or as two."""
    remaining = iter(arguments)
    for argument in remaining:
        option, equals, text = argument.partition("=")
        if not option.startswith(OVERRIDE):
            if not option.startswith("-"):
                raise ValueError(f"unknown argument {argument!r}; an override is {OVERRIDE}KEY=VALUE")
            names = (*_names(TrainConfig), *_names(LoRAConfig), *(f"data.{name}" for name in _names(DataConfig)))
            keys = [OVERRIDE + name for name in dict.fromkeys(names)]
            raise ValueError(f"unknown argument {argument!r}{_nearest(OVERRIDE + option.lstrip('-'), keys)}")
        key = option.removeprefix(OVERRIDE)
        if not equals:
            text = next(remaining, OVERRIDE)
        if text.startswith(OVERRIDE):
            raise ValueError(f"{option} needs a value")
        yield key, text


def _names(cls: type) -> list[str]:
    return [one.name for one in dataclasses.fields(cls)]


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, type]]:
    """The dotted key of every value of a config, and its type."""
    for name, annotation in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            yield from _leaves(value, f"{prefix}{name}.")
        elif isinstance(value, dict):
            kind = typing.get_args(annotation)[1]
            yield from ((f"{prefix}{name}.{key}", type(old) if kind is Any else kind) for key, old in value.items())
        else:
            yield prefix + name, annotation


def _from_dict(cls: type, values: Mapping[str, Any], prefix: str = "") -> Any:
    types = typing.get_type_hints(cls)
    if unknown := [name for name in values if name not in types]:
        raise ValueError(f"no config key {prefix + unknown[0]!r}{_nearest(unknown[0], types)}")
    defaults = {one.name: _default(one) for one in dataclasses.fields(cls)}
    if missing := [name for name in types if name not in values and defaults[name] is dataclasses.MISSING]:
        raise ValueError(f"the config has no {prefix + missing[0]}")
    checked = {name: _checked(prefix + name, value, types[name]) for name, value in values.items()}
    return cls(**{name: _over(defaults[name], value) for name, value in checked.items()})


def _default(one: dataclasses.Field) -> Any:
    return one.default if one.default_factory is dataclasses.MISSING else one.default_factory()


def _over(default: Any, value: Any) -> Any:
    """`value`, where both are mappings with the keys of `default` that it leaves out."""
    return deep_merge(default, value) if isinstance(default, dict) and isinstance(value, dict) else value


def _checked(key: str, value: Any, kind: Any) -> Any:
    """`value` as the `kind` of the annotation; an int is also a float. Raises ValueError where it is of another."""
    if kind is Any:
        return value
    if kind is DataConfig and isinstance(value, Mapping):
        return _from_dict(kind, value, f"{key}.")
    if typing.get_origin(kind) is dict and isinstance(value, Mapping):
        part = typing.get_args(kind)[1]
        return {name: _checked(f"{key}.{name}", one, part) for name, one in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{key} is {value!r}; it must be {TYPE_NAMES.get(kind, 'a mapping')}")
    return value


def _nearest(key: str, keys: Iterable[str]) -> str:
    """A clause that names the key meant, by whole key or last part, or lists all where none is near."""
    keys = list(keys)
    leaf, by_leaf = key.rpartition(".")[2], {known.rpartition(".")[2]: known for known in keys}
    if leaf in by_leaf:
        return f"; did you mean {by_leaf[leaf]!r}?"
    if found := difflib.get_close_matches(key, keys, n=1):
        return f"; did you mean {found[0]!r}?"
    if found := difflib.get_close_matches(leaf, by_leaf, n=1):
        return f"; did you mean {by_leaf[found[0]]!r}?"
    return f"; there are {', '.join(keys)}"


def _parse(text: str, kind: type) -> Any:
    """`text` as a `kind`. Raises ValueError where it is none."""
    if kind is bool:
        if text.lower() not in BOOLEANS:
            raise ValueError(text)
        return BOOLEANS[text.lower()]
    if kind in (str, int, float):
        return kind(text)
    value = _literal(text)
    if type(value) is not kind:
        raise ValueError(text)
    return value


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
