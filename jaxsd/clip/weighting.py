"""Weights of a prompt's words, as AUTOMATIC1111's web UI reads and applies them: `a (red:1.3) [dog]`."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

BRACKET_WEIGHT = 1.1  # of a pair of round brackets without a number; a pair of square ones has its inverse
# An escaped character, an opening bracket, a number before a closing one, a closing one, or text.
PROMPT_PIECE = re.compile(r"\\[()\[\]\\]|\\|\(|\[|:\s*([+-]?[.\d]+)\s*\)|\)|\]|[^\\()\[\]:]+|:")


class Fragment(NamedTuple):
    """A part of a prompt whose words have one weight."""

    text: str
    weight: float = 1.0


def parse_weights(prompt: str) -> list[Fragment]:
    """The fragments of a prompt: `(word:1.2)` weighs 1.2, `(word)` 1.1, `[word]` 1 / 1.1; weights multiply.

    A backslash before a bracket or a backslash makes a character of it. A bracket that is never closed goes on to the
    end, and one that was never opened is a character. Neighbors of the same weight are one fragment. Raises ValueError
    for a weight that is no number.
    """
    pieces: list[Fragment] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def weigh(first: int, weight: float):
        pieces[first:] = [Fragment(text, before * weight) for text, before in pieces[first:]]

    for match in PROMPT_PIECE.finditer(prompt):
        text, number = match.group(0), match.group(1)
        if text.startswith("\\"):
            pieces.append(Fragment(text[1:]))
        elif text in opened:
            opened[text].append(len(pieces))
        elif number is not None and opened["("]:
            weigh(opened["("].pop(), _read_weight(number, prompt))
        elif text == ")" and opened["("]:
            weigh(opened["("].pop(), BRACKET_WEIGHT)
        elif text == "]" and opened["["]:
            weigh(opened["["].pop(), 1 / BRACKET_WEIGHT)
        else:
            pieces.append(Fragment(text))
    for bracket, weight in (("(", BRACKET_WEIGHT), ("[", 1 / BRACKET_WEIGHT)):
        for first in opened[bracket]:
            weigh(first, weight)

    fragments: list[Fragment] = []
    for piece in pieces or [Fragment("")]:
        if fragments and fragments[-1].weight == piece.weight:
            piece = Fragment(fragments.pop().text + piece.text, piece.weight)
        fragments.append(piece)
    return fragments


def _read_weight(number: str, prompt: str) -> float:
    try:
        return float(number)
    except ValueError:
        raise ValueError(f"the prompt {prompt[:80]!r} has the weight {number}; allowed: a number") from None


@jax.jit
def weigh_hidden_states(
    hidden_states: Float[Array, "batch tokens features"], weights: Float[Array, "batch tokens"]
) -> Float[Array, "batch tokens features"]:
    """Hidden states times their weights, scaled to the mean that they had; where all weights are 1, as they are."""
    weighted = hidden_states * weights[..., None]
    weighted *= hidden_states.mean((1, 2), keepdims=True) / weighted.mean((1, 2), keepdims=True)
    return jnp.where((weights == 1).all(axis=1)[:, None, None], hidden_states, weighted)
