"""The mapping engine: the parameters of other libraries' checkpoints <-> our parameters, by table.

The name of a parameter is its dotted path in the module: `down_blocks.0.resnets.1.conv1.kernel`. A mapping is a
sequence of rules. The first rule that matches a name counts. Every name must be accounted for on both sides; otherwise
one error lists everything that is wrong.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

Model = TypeVar("Model", bound=nnx.Module)

# name -> (source to target, target to source): the order of axes, and axes of length 1, are all that ever differ.
TRANSFORMS = {
    "same": (lambda x: x, lambda x: x),
    "linear": (lambda x: x.T, lambda x: x.T),  # (out, in) -> (in, out)
    "conv1d": (lambda x: x.transpose(2, 1, 0), lambda x: x.transpose(2, 1, 0)),  # OIW -> WIO
    "conv2d": (lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)),  # OIHW -> HWIO
    "conv1x1": (lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None]),  # (out, in, 1, 1) -> (in, out)
    "patches": (lambda x: x[:, 0].T, lambda x: x.T[:, None]),  # (out, 1, size), a convolution -> (size, out)
    "batch_of_one": (lambda x: x[0], lambda x: x[None]),  # (1, ...) -> (...)
}

MOST_PROBLEMS = 20  # more than a layer of a transformer has keys, and no more than a reader takes in


@dataclass(frozen=True)
class Rule:
    """One rule of a mapping: `source` is a name in the other library's checkpoint, `target` is our name.

    `{part}` in a name stands for what varies, and `where` gives the regex of each part: by default one name between
    two dots. `transform` is a key of TRANSFORMS.
    """

    source: str
    target: str
    transform: str = "same"
    where: Mapping[str, str] = field(default_factory=dict)

    def translate(self, name: str, backwards: bool = False) -> str | None:
        """Our name for the source's `name`, or the source's for ours (`backwards`). None without a match."""
        pattern, template = (self._target_pattern, self.source) if backwards else (self._source_pattern, self.target)
        found = pattern.fullmatch(name)
        return template.format(**found.groupdict()) if found else None

    @cached_property
    def _source_pattern(self) -> re.Pattern:
        return self._regex(self.source)

    @cached_property
    def _target_pattern(self) -> re.Pattern:
        return self._regex(self.target)

    def _regex(self, template: str) -> re.Pattern:
        parts = re.split(r"\{(\w+)\}", template)
        return re.compile(
            "".join(
                f"(?P<{part}>{self.where.get(part, '[^.]+')})" if index % 2 else re.escape(part)
                for index, part in enumerate(parts)
            )
        )


def translate(mapping: Iterable[Rule], name: str, backwards: bool = False) -> tuple[str, Rule] | None:
    """The name on the other side and the rule that gave it, or None where no rule matches."""
    for rule in mapping:
        other = rule.translate(name, backwards)
        if other is not None:
            return other, rule
    return None


class _SameKey(nnx.Rngs):
    """`nnx.Rngs` where values do not matter: every parameter gets the same key."""

    def __init__(self):
        self.key = jax.random.key(0)

    def params(self) -> jax.Array:
        return self.key


def abstract_model(make: Callable[..., Model]) -> Model:
    """The module that `make(rngs=...)` makes, with shapes in place of parameters.

    `nnx.eval_shape` with `nnx.Rngs` would trace how keys are drawn, which takes ten times as long as everything else.
    """
    return nnx.eval_shape(lambda: make(rngs=_SameKey()))


def parameters(model: nnx.Module) -> dict[str, Any]:
    """The parameters of `model` by dotted name: arrays, or `jax.ShapeDtypeStruct` for an abstract model."""
    flat = nnx.to_flat_state(nnx.as_pure(nnx.state(model, nnx.Param)))
    return {".".join(map(str, path)): value for path, value in flat}


def with_parameters(model: Model, values: Mapping[str, jax.Array]) -> Model:
    """A copy of `model` that holds `values`, one for the dotted name of every parameter."""
    graph, state = nnx.split(model)
    flat = nnx.to_flat_state(nnx.as_pure(state))
    filled = [(path, values[".".join(map(str, path))]) for path, _ in flat]
    return nnx.merge(graph, nnx.from_flat_state(filled))


def match(
    source: Mapping[str, Any],
    mapping: Iterable[Rule],
    wanted: Mapping[str, Any],
    ignore: Iterable[str] = (),
    name: str = "",
) -> dict[str, tuple[str, Rule]]:
    """Find for every one of our parameters the source's key that fills it. Only names and shapes are looked at.

    Args:
        source: The tensors of the other library by name; anything that has a `shape`.
        mapping: The rules.
        wanted: Our parameters by dotted name; anything that has a `shape`.
        ignore: Regexes of the source's names that carry no parameter.
        name: What an error calls the source.

    Returns:
        The source's key and its rule, by the name of our parameter.

    Raises:
        ValueError: Lists every unknown, missing and misshapen name at once, or the first MOST_PROBLEMS of them.
    """
    mapping, ignore = tuple(mapping), tuple(ignore)
    found, problems = {}, []
    for key, value in source.items():
        if any(re.fullmatch(pattern, key) for pattern in ignore):
            continue
        translated = translate(mapping, key)
        if translated is None or translated[0] not in wanted:
            if value.shape != ():  # a number, such as a step or a rate, is no layer that could be missed
                problems.append(f"unknown key {key}")
            continue
        target, rule = translated
        if target in found:
            problems.append(f"{key} and {found[target][0]} are the same parameter")
            continue
        found[target] = key, rule
        expected = _source_shape(rule, wanted[target].shape)
        if _without_last_ones(value.shape) != _without_last_ones(expected):
            problems.append(f"{key} has shape {tuple(value.shape)}, expected {expected}")
    for target in wanted.keys() - found.keys():
        translated = translate(mapping, target, backwards=True)
        problems.append(f"missing key {translated[0] if translated else target}")
    if problems:
        more = f" and {len(problems) - MOST_PROBLEMS} more" if len(problems) > MOST_PROBLEMS else ""
        listed = "; ".join(sorted(problems)[:MOST_PROBLEMS])
        raise ValueError(f"{name or 'checkpoint'} does not fit: {listed}{more}")
    return found


def _source_shape(rule: Rule, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape in the source of our parameter of this shape."""
    return TRANSFORMS[rule.transform][1](np.broadcast_to(False, shape)).shape


def _without_last_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without its last axes of length 1: a 1x1 convolution is stored as a matrix by some."""
    shape = tuple(shape)
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def import_parameters(
    source: Mapping[str, Any],
    mapping: Iterable[Rule],
    model: Model,
    ignore: Iterable[str] = (),
    name: str = "",
    dtype: DTypeLike | None = None,
) -> Model:
    """A copy of `model`, which may be abstract, filled from `source` one tensor after the other.

    Args:
        source: The tensors of the other library by name; anything that has a `shape` and that `numpy.asarray` reads.
        mapping: The rules.
        model: The module whose copy is filled.
        ignore: Regexes of the source's names that carry no parameter.
        name: What an error calls the source.
        dtype: Of all parameters. By default each keeps the dtype that it has in `model`.

    Raises:
        ValueError: As `match` does, before any value is read.
    """
    wanted = parameters(model)
    values = {}
    for target, (key, rule) in match(source, mapping, wanted, ignore, name).items():
        forwards, _ = TRANSFORMS[rule.transform]
        shape = _source_shape(rule, wanted[target].shape)
        # No name for the value read: it is freed before the next one is read.
        values[target] = jnp.asarray(forwards(np.asarray(source[key]).reshape(shape)), dtype or wanted[target].dtype)
    return with_parameters(model, values)


def export_parameters(
    model: nnx.Module, mapping: Iterable[Rule], dtype: DTypeLike = np.float32
) -> dict[str, np.ndarray]:
    """The parameters of `model` under the other library's names, in its layouts and as `dtype`."""
    mapping = tuple(mapping)
    exported = {}
    for name, value in parameters(model).items():
        translated = translate(mapping, name, backwards=True)
        if translated is None:
            raise ValueError(f"the mapping has no rule for the parameter {name}")
        other, rule = translated
        with np.errstate(over="ignore"):  # what overflows is refused where it is written
            cast = np.asarray(value, dtype)
        exported[other] = np.asarray(TRANSFORMS[rule.transform][1](cast), order="C")
    return exported


def module(source: str, target: str, layer: str, **where: str) -> tuple[Rule, ...]:
    """The rules of the weight and the bias of a layer: linear, conv1d, conv2d, conv1x1, patches, norm or embedding."""
    leaf = {"norm": "scale", "embedding": "embedding"}.get(layer, "kernel")
    transform = layer if layer in TRANSFORMS else "same"
    return (
        Rule(f"{source}.weight", f"{target}.{leaf}", transform, where),
        Rule(f"{source}.bias", f"{target}.bias", "same", where),
    )
