"""Many examples, some at a time, in batches of one size: a function over them compiles once."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Int, PyTree


def padded_batches(count: int, size: int) -> Iterator[tuple[Int[np.ndarray, " size"], int]]:
    """Split `count` examples into batches of `size`.

    Yields the indices (size,) of the examples of a batch, and how many of these count: where the last batch is not
    full, the last example fills it up.
    """
    for first in range(0, count, size):
        yield np.minimum(np.arange(first, first + size), count - 1), min(size, count - first)


def map_batches(function: Callable, examples: np.ndarray | Sequence, size: int) -> PyTree:
    """Compute `function` of all examples, `size` at a time.

    Args:
        function: takes `size` examples, and returns a tree of arrays (size, ...).
        examples: an array (examples, ...), of which `function` gets arrays, or a sequence, of which it gets lists.
        size: how many examples `function` takes at a time.

    Returns:
        The tree of NumPy arrays (examples, ...).
    """
    import jax  # worker processes, which do without it, import this file too

    outputs = []
    for indices, count in padded_batches(len(examples), size):
        batch = examples[indices] if isinstance(examples, np.ndarray) else [examples[index] for index in indices]
        outputs.append(jax.tree.map(lambda x, count=count: np.asarray(x)[:count], function(batch)))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)
