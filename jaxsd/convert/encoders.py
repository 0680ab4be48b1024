"""The paper's PyTorch modules of the five audio encoders <-> `encoders`."""

import re
from collections import Counter
from collections.abc import Mapping
from functools import partial

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

import encoders
from encoders.layers import abstract
from encoders.spectrogram import hann, mel_filterbank
from jaxsd.pretrained.mapping import Rule, export_parameters, import_parameters, module, translate

STEPS = ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0))  # human's convolutions: (block, step in it)
POOLS = {"prom": "avg", "max": "max", "min": "min"}


def transformer(source: str, target: str) -> tuple[Rule, ...]:
    """torch.nn.TransformerEncoder, whose names begin with `source` there and `target` here."""
    there, here, number = f"{source}layers.{{n}}.", f"{target}layers.{{n}}.", {"n": r"\d+"}
    return (
        Rule(f"{there}self_attn.in_proj_weight", f"{here}self_attn.in_proj.kernel", "linear", number),
        Rule(f"{there}self_attn.in_proj_bias", f"{here}self_attn.in_proj.bias", "same", number),
        *module(f"{there}{{name}}", f"{here}{{name}}", "linear", name=r"self_attn\.out_proj|linear1|linear2", **number),
        *module(f"{there}{{name}}", f"{here}{{name}}", "norm", name="norm1|norm2", **number),
        *module(f"{source}norm", f"{target}norm", "norm"),
    )


RULES: dict[str, tuple[Rule, ...]] = {
    "human": (
        *(
            rule
            for number, (block, step) in enumerate(STEPS, 1)
            for rule in (
                *module(f"convolucion1d{number}", f"blocks.{block}.convs.{step}", "conv1d"),
                *module(f"normalizacion{number}", f"blocks.{block}.norms.{step}", "norm"),
            )
        ),
        *(rule for block in range(4) for rule in module(f"adaptador{block + 1}", f"blocks.{block}.adapter", "conv1d")),
        *(
            rule
            for there, here in POOLS.items()
            for rule in (
                *module(f"lineal{there}", f"{here}.linear", "linear"),
                *module(f"adaptador{there}", f"{here}.adapter", "conv1d"),
            )
        ),
    ),
    "chatgpt": (
        *module("proj", "proj", "patches"),
        Rule("pos_embed", "pos_embed"),
        *transformer("transformer.", "transformer."),
    ),
    "deepseek": (
        *module("conv1", "proj", "patches"),
        Rule("positional_embedding", "pos_embed", "batch_of_one"),
        *transformer("transformer.", "transformer."),
    ),
    "gemini": (
        *module("input_projection", "proj", "linear"),
        Rule("positional_embedding", "pos_embed", "batch_of_one"),
        *transformer("transformer_encoder.", "transformer."),
    ),
    "grok": (
        *module("linear", "proj", "linear"),
        Rule("pos_emb", "pos_embed"),
        *transformer("transformer.", "transformer."),
    ),
}

# What is constant here and stored there: written, and ignored on reading.
BUFFERS: dict[str, dict[str, np.ndarray]] = {
    "gemini": {
        "mel_spectrogram.spectrogram.window": hann(1024),
        "mel_spectrogram.mel_scale.fb": mel_filterbank(513, 80, 8000.0),
    },
    "grok": {"window": hann(256)},
}

# Tensors whose first axis has the size, several of each: one misshapen tensor must not make all others wrong.
WIDTH = r".*\.(norm1|norm2|linear2|self_attn\.out_proj)\.(weight|bias)|lineal(prom|max|min)\.(weight|bias)"
MLP = r".*\.linear1\.(weight|bias)"
LAYER = r"transformer(?:_encoder)?\.layers\.(\d+)\..*"

PAPER_WIDTH = 768  # at which the number of heads is known


def encoder_from_torch(
    state_dict: Mapping[str, ArrayLike], *, heads: int | None = None, name: str = "state dict"
) -> nnx.Module:
    """The encoder whose PyTorch state dict this is, with copies of its values as float32.

    Which of the five it is and its sizes are read from names and shapes. `heads` cannot be: it must be given unless
    the width is the paper's 768, and then is 12. Values may be tensors of torch, jax or numpy of any floating point
    type. `name` is what errors call the state dict. Raises ValueError where it is none of the five encoders', or one
    that lists every unknown, missing and misshapen key; and for a number of heads that cannot be.
    """
    arrays = _arrays(state_dict, name)
    encoder = recognise(arrays, name)
    sizes = _sizes(encoder, arrays, heads, name)
    target = abstract(partial(encoders.create, encoder, **sizes))
    ignore = tuple(re.escape(key) for key in BUFFERS.get(encoder, {}))
    return import_parameters(arrays, RULES[encoder], target, ignore, f"{name}, read as {encoder},")


def encoder_to_torch(encoder: nnx.Module) -> dict[str, np.ndarray]:
    """The state dict of the paper's PyTorch module, buffers included, as float32 arrays of their own.

    Raises ValueError for a module that is none of the five encoders, or of a stride that theirs has not.
    """
    names = {cls: name for name, cls in encoders.ENCODERS.items()}
    if type(encoder) not in names:
        raise ValueError(f"no PyTorch names for {type(encoder).__name__}: not one of {', '.join(encoders.ENCODERS)}")
    name = names[type(encoder)]
    if encoder.config.get("stride", 1) != 1:
        raise ValueError(f"the paper's {name} has stride 1, so one of stride {encoder.stride} has no PyTorch names")
    arrays = export_parameters(encoder, RULES[name]) | BUFFERS.get(name, {})
    return {key: value.copy() for key, value in arrays.items()}


def recognise(names: Mapping[str, object], name: str = "state dict") -> str:
    """The encoder whose table knows the most of `names`; ValueError where no single one does."""
    known = {encoder: sum(translate(rules, key) is not None for key in names) for encoder, rules in RULES.items()}
    (encoder, most), (_, second) = Counter(known).most_common(2)
    if most == second:
        keys = ", ".join(list(names)[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        raise ValueError(f"{name} is none of {', '.join(RULES)}: its keys are {keys or 'none'}")
    return encoder


def _arrays(state_dict: Mapping[str, ArrayLike], name: str) -> dict[str, np.ndarray]:
    arrays, problems = {}, []
    for key, value in state_dict.items():
        try:
            arrays[key] = _float32(value)
        except (TypeError, ValueError, RuntimeError):
            problems.append(f"{key} ({type(value).__name__})")
    if problems:
        raise ValueError(f"{name} must hold nothing but floating point tensors, unlike {', '.join(problems)}")
    return arrays


def _float32(value: ArrayLike) -> np.ndarray:
    """A copy that shares no memory, for torch changes its tensors in place."""
    if hasattr(value, "detach"):  # a torch tensor; numpy has no bfloat16 that torch would convert to
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
    array = np.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{array.dtype} is not floating point")
    return np.array(array, np.float32)


def _sizes(encoder: str, arrays: Mapping[str, np.ndarray], heads: int | None, name: str) -> dict[str, int]:
    """The keyword arguments of the encoder's class; sizes that nothing tells are left to its defaults, the paper's."""
    width = _commonest_length(arrays, WIDTH)
    if encoder == "human":
        if heads is not None:
            raise ValueError(f"heads is {heads}, but {name} is human's, which has none")
        return {"width": width} if width else {}
    if heads is None and width not in (None, PAPER_WIDTH):
        raise ValueError(f"{name} has width {width}, not {PAPER_WIDTH}: its number of heads must be given")
    if heads is not None and (heads < 1 or (width or PAPER_WIDTH) % heads):
        raise ValueError(f"heads is {heads}; allowed: divisors of the width, {width or PAPER_WIDTH}")
    numbers = {int(found[1]) for key in arrays if (found := re.fullmatch(LAYER, key))}
    # A number out of all proportion is an unknown key's, not a reason to miss thousands of layers.
    depth = 1 + max((number for number in numbers if number < 2 * len(numbers)), default=0) if numbers else None
    sizes = {"width": width, "depth": depth, "heads": heads, "mlp": _commonest_length(arrays, MLP)}
    return {key: size for key, size in sizes.items() if size}


def _commonest_length(arrays: Mapping[str, np.ndarray], pattern: str) -> int | None:
    """The length of the first axis of most arrays whose name matches, None where there is none."""
    lengths = Counter(
        len(value) for key, value in arrays.items() if value.size and value.ndim and re.fullmatch(pattern, key)
    )
    return lengths.most_common(1)[0][0] if lengths else None
