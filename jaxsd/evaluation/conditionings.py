"""Conditionings of Stable Diffusion that are evaluated side by side: encoders' embeddings, and references."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Num

from jaxsd.clip.pooling import pool_embeddings
from jaxsd.clip.tokens import tokenize
from jaxsd.evaluation.inputs import EvaluatedEncoder, EvaluationSplit

OWN_CAPTION, WRONG_CAPTION, CLASS_CAPTION = "own caption", "wrong caption", "class caption"
NO_CAPTION, RANDOM = "no caption", "N(0, 1)"
REFERENCES = (OWN_CAPTION, WRONG_CAPTION, CLASS_CAPTION, NO_CAPTION, RANDOM)
WRONG_OFFSET = 5  # the wrong caption is that of so many examples on: in the toy world always of another class

Embed = Callable[[Int[np.ndarray, " batch"], Float[Array, "batch 77 width"]], Float[Array, "batch 77 width"]]


@dataclass(frozen=True)
class EvaluatedConditioning:
    """What makes (batch, 77, width) for the examples of a split.

    embed: `embed(indices, states)` gives the embeddings of the examples with these indices, whose captions have the
    hidden states `states`. source: what an error message calls it. pooling: how the 77 embeddings become one vector
    that is compared with CLIP's, or None where they are not compared.
    """

    source: str
    embed: Embed
    pooling: str | None = None


def encoder_conditioning(
    encoder: nnx.Module, evaluated: EvaluatedEncoder, split: EvaluationSplit
) -> EvaluatedConditioning:
    """The embeddings that an encoder makes of a split's audio; `evaluated` says where it is from and how it pools."""
    return EvaluatedConditioning(
        evaluated.source,
        lambda indices, states: encode_audio(encoder, split.columns["audio"][indices]),
        evaluated.pooling,
    )


@nnx.jit
def encode_audio(
    encoder: nnx.Module, audio: Num[Array | np.ndarray, "batch samples"]
) -> Float[Array, "batch 77 width"]:
    """An encoder's embeddings of int16 clips (batch, 16000), compiled."""
    return encoder(audio)


@nnx.jit
def _hidden_states(
    text_model: nnx.Module, tokens: Int[Array | np.ndarray, "batch 77"]
) -> Float[Array, "batch 77 width"]:
    return text_model(tokens).hidden_states


class TextTower:
    """CLIP's text tower over the captions of a split, and the conditionings that need no encoder."""

    def __init__(self, split: EvaluationSplit):
        self.split = split

    def hidden_states(self, tokens: Int[Array | np.ndarray, "batch 77"]) -> Float[Array, "batch 77 width"]:
        return _hidden_states(self.split.clip.model.text_model, tokens)

    def hidden_states_at(self, indices: Int[np.ndarray, " batch"]) -> Float[Array, "batch 77 width"]:
        """The hidden states of the captions with these indices."""
        return self.hidden_states(self.split.columns["tokens"][indices])

    def start_embedding(self) -> Float[np.ndarray, " projection"]:
        """The text embedding pooled at position 0. The tower is causal, so it is that of every caption."""
        states = self.hidden_states_at(np.array([0]))
        projection = jnp.asarray(self.split.clip.model.text_projection.kernel[...])
        return np.asarray(pool_embeddings(states, projection, "first")[0])

    def references(self) -> dict[str, EvaluatedConditioning]:
        """The reference conditionings by name; CLASS_CAPTION is there where the split has classes."""
        size, tokenizer = len(self.split), self.split.clip.tokenizer
        empty = self.hidden_states(tokenize(tokenizer, [""]))
        embed: dict[str, Embed] = {
            OWN_CAPTION: lambda indices, states: states,
            WRONG_CAPTION: lambda indices, states: self.hidden_states_at((indices + WRONG_OFFSET) % size),
            NO_CAPTION: lambda indices, states: jnp.broadcast_to(empty, states.shape),
            RANDOM: lambda indices, states: jax.random.normal(jax.random.key(int(indices[0])), states.shape),
        }
        if self.split.classes is not None:
            classes, labels = self.split.classes, self.split.classes.labels
            captions = self.hidden_states(tokenize(tokenizer, list(classes.captions)))
            embed[CLASS_CAPTION] = lambda indices, states: captions[labels[indices]]
        return {name: EvaluatedConditioning(name, function) for name, function in embed.items()}
