"""The paper's PyTorch modules of the five audio encoders <-> `encoders`."""

import re
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

import encoders
from encoders.layers import abstract
from encoders.registry import bundled_name
from encoders.spectrogram import hann, mel_filterbank
from jaxsd.pretrained.mapping import Rule, export_parameters, import_parameters, module, translate

# The convolutions of human in the order of their numbers in PyTorch: (block, step in the block).
HUMAN_STEPS = ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0))
HUMAN_POOLS = {"prom": "avg", "max": "max", "min": "min"}


def transformer_mapping(source: str, target: str) -> tuple[Rule, ...]:
    """torch.nn.TransformerEncoder, whose names begin with `source` in PyTorch and with `target` in `encoders`."""
    torch_layer, our_layer, number = f"{source}layers.{{n}}.", f"{target}layers.{{n}}.", {"n": r"\d+"}
    linears = r"self_attn\.out_proj|linear1|linear2"
    return (
        Rule(f"{torch_layer}self_attn.in_proj_weight", f"{our_layer}self_attn.in_proj.kernel", "linear", number),
        Rule(f"{torch_layer}self_attn.in_proj_bias", f"{our_layer}self_attn.in_proj.bias", "same", number),
        *module(f"{torch_layer}{{name}}", f"{our_layer}{{name}}", "linear", name=linears, **number),
        *module(f"{torch_layer}{{name}}", f"{our_layer}{{name}}", "norm", name="norm1|norm2", **number),
        *module(f"{source}norm", f"{target}norm", "norm"),
    )


ENCODER_MAPPINGS: dict[str, tuple[Rule, ...]] = {
    "human": (
        *(
            rule
            for number, (block, step) in enumerate(HUMAN_STEPS, 1)
            for rule in (
                *module(f"convolucion1d{number}", f"blocks.{block}.convs.{step}", "conv1d"),
                *module(f"normalizacion{number}", f"blocks.{block}.norms.{step}", "norm"),
            )
        ),
        *(rule for block in range(4) for rule in module(f"adaptador{block + 1}", f"blocks.{block}.adapter", "conv1d")),
        *(
            rule
            for torch_pool, our_pool in HUMAN_POOLS.items()
            for rule in (
                *module(f"lineal{torch_pool}", f"{our_pool}.linear", "linear"),
                *module(f"adaptador{torch_pool}", f"{our_pool}.adapter", "conv1d"),
            )
        ),
    ),
    "chatgpt": (
        *module("proj", "proj", "patches"),
        Rule("pos_embed", "pos_embed"),
        *transformer_mapping("transformer.", "transformer."),
    ),
    "deepseek": (
        *module("conv1", "proj", "patches"),
        Rule("positional_embedding", "pos_embed", "batch_of_one"),
        *transformer_mapping("transformer.", "transformer."),
    ),
    "gemini": (
        *module("input_projection", "proj", "linear"),
        Rule("positional_embedding", "pos_embed", "batch_of_one"),
        *transformer_mapping("transformer_encoder.", "transformer."),
    ),
    "grok": (
        *module("linear", "proj", "linear"),
        Rule("pos_emb", "pos_embed"),
        *transformer_mapping("transformer.", "transformer."),
    ),
}

# Tensors that PyTorch stores and `encoders` computes: they are written, and ignored on reading.
BUFFERS: dict[str, dict[str, np.ndarray]] = {
    "gemini": {
        "mel_spectrogram.spectrogram.window": hann(1024),
        "mel_spectrogram.mel_scale.fb": mel_filterbank(513, 80, 8000.0),
    },
    "grok": {"window": hann(256)},
}

# The names of tensors whose first axis has the size, several of each: one misshapen tensor must not make all others
# wrong.
WIDTH_NAMES = r".*\.(norm1|norm2|linear2|self_attn\.out_proj)\.(weight|bias)|lineal(prom|max|min)\.(weight|bias)"
MLP_NAMES = r".*\.linear1\.(weight|bias)"
LAYER_NAMES = r"transformer(?:_encoder)?\.layers\.(\d+)\..*"

PAPER_WIDTH = 768  # at which the number of heads is known


def encoder_from_torch(
    state_dict: Mapping[str, Any], *, heads: int | None = None, name: str = "state dict"
) -> nnx.Module:
    """The encoder whose PyTorch state dict this is, with copies of its values as float32.

    Args:
        state_dict: tensors of torch, jax or numpy, of any floating point type, under the names of PyTorch. Which of the
            five encoders it is and its sizes are read from names and shapes.
        heads: the number of attention heads, which no tensor tells. It must be given unless the width is the paper's
            768, and then is 12.
        name: what errors call the state dict.

    Raises:
        ValueError: where the state dict is none of the five encoders', where values are not finite, where names are
            unknown or missing or shapes do not fit (one error lists all), and for an impossible number of heads.
    """
    arrays = _arrays(state_dict, name)
    encoder = recognize_encoder(arrays, name)
    sizes = _sizes(encoder, arrays, heads, name)
    target = abstract(partial(encoders.create, encoder, **sizes))
    ignore = tuple(re.escape(key) for key in BUFFERS.get(encoder, {}))
    return import_parameters(arrays, ENCODER_MAPPINGS[encoder], target, ignore, f"{name}, read as {encoder},")


def encoder_to_torch(encoder: nnx.Module) -> dict[str, np.ndarray]:
    """The state dict of the paper's PyTorch module, buffers included, as float32 arrays that share no memory.

    Raises ValueError for a module that is none of the five encoders, and for a stride that the paper's human has not.
    """
    name = bundled_name(type(encoder))
    if name not in ENCODER_MAPPINGS:
        raise ValueError(f"no PyTorch names for {type(encoder).__name__}: not one of {', '.join(ENCODER_MAPPINGS)}")
    if (stride := getattr(encoder, "stride", 1)) != 1:
        raise ValueError(f"the paper's {name} has stride 1, so one of stride {stride} has no PyTorch names")
    arrays = export_parameters(encoder, ENCODER_MAPPINGS[name]) | BUFFERS.get(name, {})
    return {key: value.copy() for key, value in arrays.items()}


def recognize_encoder(names: Mapping[str, object], name: str = "state dict") -> str:
    """The encoder whose mapping knows the most of `names`. Raises ValueError where no single one does."""
    known = {
        encoder: sum(translate(mapping, key) is not None for key in names)
        for encoder, mapping in ENCODER_MAPPINGS.items()
    }
    (encoder, most), (_, second) = Counter(known).most_common(2)
    if most == second:
        keys = ", ".join(list(names)[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        raise ValueError(f"{name} is none of {', '.join(ENCODER_MAPPINGS)}: its keys are {keys or 'none'}")
    return encoder


def _arrays(state_dict: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
    arrays, problems = {}, []
    for key, value in state_dict.items():
        try:
            arrays[key] = _float32(value)
        except (TypeError, ValueError, RuntimeError):
            problems.append(f"{key} ({type(value).__name__})")
    if problems:
        raise ValueError(f"{name} must hold nothing but floating point tensors, unlike {', '.join(problems)}")
    if not_finite := [key for key, value in arrays.items() if not np.isfinite(value).all()]:
        raise ValueError(f"{name} has values that are not finite as float32 in {', '.join(not_finite)}")
    return arrays


def _float32(value: Any) -> np.ndarray:
    """A copy that shares no memory, because torch changes its tensors in place."""
    if hasattr(value, "detach"):  # a torch tensor; numpy has no bfloat16 that torch would convert to
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
    array = np.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{array.dtype} is not floating point")
    return np.array(array, np.float32)


def _sizes(encoder: str, arrays: Mapping[str, np.ndarray], heads: int | None, name: str) -> dict[str, int]:
    """The keyword arguments of the encoder's class; sizes that no tensor tells are left to the class's defaults."""
    width = _commonest_length(arrays, WIDTH_NAMES)
    if encoder == "human":
        if heads is not None:
            raise ValueError(f"heads is {heads}, but {name} is human's, which has none")
        return {"width": width} if width else {}
    if heads is None and width not in (None, PAPER_WIDTH):
        raise ValueError(f"{name} has width {width}, not {PAPER_WIDTH}: its number of heads must be given")
    if heads is not None and (heads < 1 or (width or PAPER_WIDTH) % heads):
        raise ValueError(f"heads is {heads}; allowed: divisors of the width, {width or PAPER_WIDTH}")
    numbers = {int(found[1]) for key in arrays if (found := re.fullmatch(LAYER_NAMES, key))}
    # A number out of all proportion is an unknown key's, not a reason to miss thousands of layers.
    depth = 1 + max((number for number in numbers if number < 2 * len(numbers)), default=0) if numbers else None
    sizes = {"width": width, "depth": depth, "heads": heads, "mlp": _commonest_length(arrays, MLP_NAMES)}
    return {key: size for key, size in sizes.items() if size}


def _commonest_length(arrays: Mapping[str, np.ndarray], pattern: str) -> int | None:
    """The length of the first axis of most arrays whose name matches, None where there is none."""
    lengths = Counter(
        len(value) for key, value in arrays.items() if value.size and value.ndim and re.fullmatch(pattern, key)
    )
    return lengths.most_common(1)[0][0] if lengths else None
