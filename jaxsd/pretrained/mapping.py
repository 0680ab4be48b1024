"""The mapping engine: other people's checkpoints <-> our parameters, by table.

A parameter's name is its dotted path in the module, `down_blocks.0.resnets.1.conv1.kernel`. A table is a sequence of
rules, the first that matches a name counts. Every name must be accounted for on both sides, or one error lists all
that is wrong.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from jaxsd.files import replacing

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
    """`source` and `target` are names with `{letter}` for the parts that vary; `where` gives their regexes."""

    source: str
    target: str
    transform: str = "same"
    where: Mapping[str, str] = field(default_factory=dict)

    def translate(self, name: str, backwards: bool = False) -> str | None:
        """The other side's name for `name`, or None where the rule does not match it."""
        pattern, template = (self._here, self.source) if backwards else (self._there, self.target)
        found = pattern.fullmatch(name)
        return template.format(**found.groupdict()) if found else None

    @cached_property
    def _there(self) -> re.Pattern:
        return self._regex(self.source)

    @cached_property
    def _here(self) -> re.Pattern:
        return self._regex(self.target)

    def _regex(self, template: str) -> re.Pattern:
        parts = re.split(r"\{(\w+)\}", template)
        return re.compile(
            "".join(
                f"(?P<{part}>{self.where.get(part, '[^.]+')})" if index % 2 else re.escape(part)
                for index, part in enumerate(parts)
            )
        )


def translate(rules: Iterable[Rule], name: str, backwards: bool = False) -> tuple[str, Rule] | None:
    """The other side's name and the rule that gave it, or None."""
    for rule in rules:
        other = rule.translate(name, backwards)
        if other is not None:
            return other, rule
    return None


def parameters(model: nnx.Module) -> dict[str, jax.Array]:
    """The parameters of `model` by dotted name (abstract for a model from `nnx.eval_shape`)."""
    flat = nnx.to_flat_state(nnx.as_pure(nnx.state(model, nnx.Param)))
    return {".".join(map(str, path)): value for path, value in flat}


def with_parameters(model: nnx.Module, values: Mapping[str, jax.Array]) -> nnx.Module:
    """A copy of `model` that holds `values`, one for every parameter's dotted name."""
    graph, state = nnx.split(model)
    flat = nnx.to_flat_state(nnx.as_pure(state))
    filled = [(path, values[".".join(map(str, path))]) for path, _ in flat]
    return nnx.merge(graph, nnx.from_flat_state(filled))


def match(
    source: Mapping[str, ArrayLike], rules: Iterable[Rule], wanted: Mapping[str, ArrayLike], ignore=(), name=""
) -> dict[str, tuple[str, Rule]]:
    """For every name in `wanted` (our parameters) the key of `source` that fills it, and its rule.

    Looks at names and shapes alone. `ignore` holds regexes of source names that carry no parameter. Raises ValueError
    that lists every unknown, missing and misshapen name at once, or the first few of many.
    """
    found, problems = {}, []
    for key, value in source.items():
        if any(re.fullmatch(pattern, key) for pattern in ignore):
            continue
        translated = translate(rules, key)
        if translated is None or translated[0] not in wanted:
            problems.append(f"unknown key {key}")
            continue
        target, rule = translated
        if target in found:
            problems.append(f"{key} and {found[target][0]} are the same parameter")
            continue
        found[target] = key, rule
        expected = TRANSFORMS[rule.transform][1](np.broadcast_to(False, wanted[target].shape)).shape
        if value.shape != expected:
            problems.append(f"{key} has shape {tuple(value.shape)}, expected {expected}")
    for target in wanted.keys() - found.keys():
        translated = translate(rules, target, backwards=True)
        problems.append(f"missing key {translated[0] if translated else target}")
    if problems:
        more = f" and {len(problems) - MOST_PROBLEMS} more" if len(problems) > MOST_PROBLEMS else ""
        listed = "; ".join(sorted(problems)[:MOST_PROBLEMS])
        raise ValueError(f"{name or 'checkpoint'} does not fit: {listed}{more}")
    return found


def import_parameters(
    source: Mapping[str, ArrayLike],
    rules: Iterable[Rule],
    model: nnx.Module,
    ignore=(),
    name="",
    dtype: DTypeLike | None = None,
):
    """A copy of `model` (may be abstract) filled from a foreign checkpoint, one tensor after the other.

    Values get `dtype`, by default that of `model`'s parameters. Raises `match`'s ValueError before any value is read.
    """
    wanted = parameters(model)
    values = {}
    for target, (key, rule) in match(source, rules, wanted, ignore, name).items():
        forwards, _ = TRANSFORMS[rule.transform]
        values[target] = jnp.asarray(forwards(np.asarray(source[key])), dtype or wanted[target].dtype)
    return with_parameters(model, values)


def export_parameters(model: nnx.Module, rules: tuple[Rule, ...], dtype=np.float32) -> dict[str, np.ndarray]:
    """The parameters of `model` under the other side's names, layouts and `dtype`."""
    exported = {}
    for name, value in parameters(model).items():
        other, rule = translate(rules, name, backwards=True)
        exported[other] = np.asarray(TRANSFORMS[rule.transform][1](np.asarray(value, dtype)), order="C")
    return exported


def read_safetensors(path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file. Raises FileNotFoundError or ValueError naming the file."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from None


def write_safetensors(arrays: Mapping[str, np.ndarray], path):
    """Write a safetensors file in one move: a reader sees the old file or the whole new one."""
    with replacing(path) as part:
        save_file(dict(arrays), part, metadata={"format": "pt"})  # the tag that transformers asks for


def write_parameters(model: nnx.Module, path, dtype=np.float32):
    """Write the parameters of `model` under their own names."""
    write_safetensors({name: np.asarray(value, dtype) for name, value in parameters(model).items()}, path)


def read_parameters(model: nnx.Module, path) -> nnx.Module:
    """A copy of `model` (may be abstract) filled from what `write_parameters` wrote."""
    source = read_safetensors(path)
    rules = tuple(Rule(key.replace("{", "{{"), key) for key in parameters(model))
    return import_parameters(source, rules, model, name=str(path))


def module(source: str, target: str, kind: str, **where: str) -> tuple[Rule, ...]:
    """The rules of a layer's weight and bias; `kind` is linear, conv1d, conv2d, norm or embedding."""
    leaf = {"norm": "scale", "embedding": "embedding"}.get(kind, "kernel")
    transform = kind if kind in TRANSFORMS else "same"
    return (
        Rule(f"{source}.weight", f"{target}.{leaf}", transform, where),
        Rule(f"{source}.bias", f"{target}.bias", "same", where),
    )
