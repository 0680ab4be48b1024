"""The paper's contract of an audio encoder, checked on any NNX module, and the paper's counts of layers.

The contract: an encoder maps 16-bit PCM of shape (batch, 16000) to (batch, 77, width). Besides, an encoder must here be
finite on every clip, deterministic in evaluation, the same under jit, and independent of the other clips of a batch.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Int16

from encoders.flops import count_flops
from encoders.registry import takes_rngs
from encoders.spectrogram import SAMPLES, TOKENS

# Outputs of one clip computed in two ways may differ by this fraction of their standard deviation.
TOLERANCE = 1e-3

# Table 2 of arXiv 2509.09717. It does not say which gemini's 17th branching is: its layers' residuals make 16.
PAPER_LAYERS = {
    "Conv1d": {"human": 14, "chatgpt": 1, "deepseek": 1, "gemini": 0, "grok": 0},
    "Dropout": {"human": 1, "chatgpt": 13, "deepseek": 36, "gemini": 24, "grok": 36},
    "GELU": {"human": 0, "chatgpt": 1, "deepseek": 1, "gemini": 1, "grok": 1},
    "SiLU": {"human": 1, "chatgpt": 0, "deepseek": 0, "gemini": 0, "grok": 0},
    "LayerNorm": {"human": 7, "chatgpt": 8, "deepseek": 24, "gemini": 17, "grok": 24},
    "Linear": {"human": 3, "chatgpt": 8, "deepseek": 24, "gemini": 17, "grok": 25},
    "MultiheadAttention": {"human": 0, "chatgpt": 4, "deepseek": 12, "gemini": 8, "grok": 12},
    "adaptive avg pool": {"human": 1, "chatgpt": 0, "deepseek": 0, "gemini": 0, "grok": 0},
    "adaptive max pool": {"human": 2, "chatgpt": 0, "deepseek": 0, "gemini": 0, "grok": 0},
    "branching": {"human": 8, "chatgpt": 8, "deepseek": 24, "gemini": 17, "grok": 24},
}
PAPER_PARAMETERS = {
    "human": 2_043_692,
    "chatgpt": 22_275_584,
    "deepseek": 85_274_112,
    "gemini": 56_825_856,
    "grok": 85_213_440,
}


def check_contract(build: Callable[[], nnx.Module]) -> Iterator[tuple[str, str | None]]:
    """Each clause of the contract with what is wrong, or None; ends where a failure leaves nothing more to check."""
    encoder, problem = _attempt(build)
    yield "is constructed as Class(rngs=...)", problem
    if problem:
        return
    encoder.eval()

    clips = probe_clips()
    pcm = np.stack(list(clips.values()))
    together, problem = _attempt(lambda: encoder(pcm))
    problem = problem or _shape_problem(together, len(pcm))
    yield f"maps (batch, {SAMPLES}) int16 to (batch, {TOKENS}, width) floats", problem
    if problem:
        return

    bad = [name for name, y in zip(clips, together, strict=True) if not jnp.isfinite(y).all()]
    yield f"is finite on {', '.join(clips)}", f"not on {', '.join(bad)}" if bad else None
    if bad:
        return

    again, problem = _attempt(lambda: encoder(pcm))
    if problem is None and not np.array_equal(again, together):
        problem = "two calls differ"
    yield "is deterministic in evaluation", problem

    if takes_rngs(encoder):
        dropped, problem = _attempt(lambda: encoder(pcm, rngs=jax.random.key(0)))
        if problem is None and np.array_equal(dropped, together):
            problem = "the outputs with rngs=key are the outputs without"
        yield "drops out where it is given rngs", problem

    graphdef, state = nnx.split(encoder)
    forward = jax.jit(lambda state, pcm: nnx.merge(graphdef, state)(pcm))
    compiled, problem = _attempt(lambda: forward(state, pcm))
    problem = problem or _disagreement(clips, compiled, together, "compiled and not")
    yield "computes the same under jax.jit", problem
    if problem:
        return

    alone, problem = _attempt(lambda: jnp.concatenate([forward(state, clip[None]) for clip in pcm]))
    problem = problem or _disagreement(clips, alone, compiled, "alone and in a batch")
    yield "computes the same for a clip in any batch", problem


def probe_clips() -> dict[str, Int16[np.ndarray, "16000"]]:
    """Clips of very different loudness by name."""
    noise = np.random.default_rng(0).normal(size=SAMPLES)
    time = np.arange(SAMPLES) / SAMPLES
    clips = {
        "silence": np.zeros(SAMPLES),
        "quiet noise": 3 * noise,
        "loud noise": 8000 * noise,
        "a full-scale tone": 32767 * np.sin(2 * np.pi * 440 * time),
        "alternating extremes": np.where(np.arange(SAMPLES) % 2, 32767, -32768),
    }
    return {name: np.round(x).clip(-32768, 32767).astype(np.int16) for name, x in clips.items()}


def count_layers(encoder: nnx.Module) -> Counter[str]:
    """How often each type of layer occurs.

    Modules with parameters are counted as what they are. What a module computes without a submodule is counted where
    its class says so in `operations` (see `encoders.AudioEncoder`); elsewhere it is not seen.
    Dropout of attention weights belongs to the attention, as in the paper.
    """
    modules = list(nnx.iter_modules(encoder))
    whole = [path for path, module in modules if _counted_as(module) == "MultiheadAttention"]
    counts: Counter[str] = Counter()
    for path, module in modules:
        if any(path[: len(outer)] == outer and path != outer for outer in whole):
            continue  # an attention's projections are part of it
        if layer := _counted_as(module):
            counts[layer] += 1
        counts.update(getattr(module, "operations", {}))
    return counts


def parameter_count(encoder: nnx.Module) -> int:
    return sum(p.size for p in jax.tree.leaves(nnx.state(encoder, nnx.Param)))


def flops_per_clip(encoder: nnx.Module) -> int:
    """Floating-point operations of the matrix products and convolutions of one clip's forward pass."""
    graphdef, state = nnx.split(encoder)
    clip = jax.ShapeDtypeStruct((1, SAMPLES), jnp.int16)
    return count_flops(jax.make_jaxpr(lambda state, pcm: nnx.merge(graphdef, state)(pcm))(state, clip))


def _counted_as(module: nnx.Module) -> str | None:
    if layer := getattr(module, "counted_as", None):
        return layer
    match module:
        case nnx.Conv() if len(module.kernel.shape) == 3:
            return "Conv1d"
        case nnx.Linear() | nnx.LinearGeneral():
            return "Linear"
        case nnx.LayerNorm():
            return "LayerNorm"
        case nnx.Dropout():
            return "Dropout"
        case nnx.MultiHeadAttention():
            return "MultiheadAttention"
    return None


def _attempt(compute: Callable[[], Any]) -> tuple[Any, str | None]:
    """The result, or what was raised in one sentence."""
    try:
        return compute(), None
    except Exception as error:
        return None, f"{type(error).__name__}: {error}".splitlines()[0]


def _shape_problem(y: object, batch: int) -> str | None:
    if not isinstance(y, jax.Array):
        return f"returns {type(y).__name__}, not an array"
    if y.ndim != 3 or y.shape[:2] != (batch, TOKENS) or not jnp.issubdtype(y.dtype, jnp.floating):
        return f"returns {y.dtype} of shape {y.shape} for {batch} clips"
    return None


def _disagreement(names: Iterable[str], actual: jax.Array, expected: jax.Array, ways: str) -> str | None:
    differences = abs(actual - expected).max(axis=(1, 2))
    name, worst = max(zip(names, differences.tolist(), strict=True), key=lambda pair: pair[1])
    if worst <= TOLERANCE * expected.std():
        return None
    return f"{name} differs by {worst:.2g} {ways}, where outputs deviate by {expected.std():.2g}"
