"""What an audio encoder is: the contract of the paper's five encoders and of your own."""

from collections.abc import Mapping
from typing import ClassVar

import jax
from flax import nnx


class AudioEncoder(nnx.Module):
    """The base of the bundled audio encoders. A class of your own need not derive from it: any NNX module will do.

    A class of your own must have:

    - `__init__(self, *, rngs, ...)`. The further keyword arguments are the sizes, and each has a default. Where the
      class takes `dtype`, `create` and `load` pass the dtype to compute in; where it does not, it computes in its own.
    - `__call__(self, clips)` from (batch, 16000) int16 to (batch, 77, width) floats, for a batch of any size;
      `encoders.spectrogram.waveform` scales the clips, and takes floats in [-1, 1] too. It may take `rngs` (an
      `nnx.Rngs` or a key) as a keyword argument. Dropout is on only if `rngs` is given, and training gives it only
      to a class that takes it: `self.dropout(x, deterministic=rngs is None, rngs=rngs)`.
    - a property `config`, if `__init__` takes sizes: the keyword arguments that make this encoder again, as JSON has
      them (lists and not tuples).
    - no state but parameters (`nnx.Param`) of floating point. Statistics of a batch (`nnx.BatchNorm`) and streams of
      random numbers (`nnx.Dropout(..., rngs=rngs)`) have no place in a folder, and `save` refuses them.

    A module inside an encoder may say what the layer counts of `python -m encoders` cannot see:

    Attributes:
        counted_as: the type of layer that the module counts as, such as "Conv1d".
        operations: the types of layers that it computes without a submodule, and how often.
    """

    counted_as: ClassVar[str | None] = None
    operations: ClassVar[Mapping[str, int]] = {}

    def __repr__(self) -> str:
        """One line, such as "Gemini(width=128, depth=3, heads=4, mlp=512): 0.62 million parameters"."""
        sizes = ", ".join(f"{key}={value!r}" for key, value in getattr(self, "config", {}).items())
        parameters = sum(p.size for p in jax.tree.leaves(nnx.state(self, nnx.Param)))
        return f"{type(self).__name__}({sizes}): {parameters / 1e6:.2f} million parameters"

    __str__ = __repr__
