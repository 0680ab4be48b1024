"""Batches from memory-mapped columns: Grain orders and prefetches steps, a batch is one gather a column."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache

import grain
import jax
import numpy as np
from jaxtyping import Int

from jaxsd.runtime.progress import counted
from jaxsd.runtime.sharding import batch_sharding, gather_examples

# A batch is gathered by one thread; several are in the making so that a slow disk has several requests to serve.
READING = grain.ReadOptions(num_threads=4, prefetch_buffer_size=4)


def shuffled(size: int, batch_size: int, seed: int) -> Callable[[int], Int[np.ndarray, " batch"]]:
    """A function `batch(step)` that gives indices (batch_size,): epochs of `range(size)`, each in an order of its own.

    `seed` decides the orders. The indices of an epoch that fill no batch are left out of it. Raises ValueError where no
    batch is filled.
    """
    if not 0 < batch_size <= size:
        raise ValueError(f"batch_size is {batch_size}; allowed with {counted(size, 'example')}: 1 to {size:,}")
    steps = size // batch_size
    order = lru_cache(maxsize=2)(lambda epoch: np.random.default_rng([seed, epoch]).permutation(size))

    def batch(step: int) -> np.ndarray:
        epoch, number = divmod(step, steps)
        return order(epoch)[number * batch_size : (number + 1) * batch_size]

    return batch


class Loader:
    """Shuffled batches of columns, the same whatever the number of devices and processes.

    A batch is a function of the step alone, so that a step is all there is to resume from.

    Args:
        columns: arrays (examples, ...), memory-mapped ones for instance.
        names: the columns that a batch holds.
        batch_size: examples of a batch.
        seed: decides the order of every epoch.
        parts: every device's share of a batch can be cut into so many parts of one size.

    Raises:
        ValueError: the batch size is not one of 1 to the number of examples.
    """

    def __init__(
        self, columns: Mapping[str, np.ndarray], names: Sequence[str], batch_size: int, seed: int, parts: int = 1
    ):
        self.columns = {name: columns[name] for name in names}
        size = len(next(iter(self.columns.values())))
        self.indices = shuffled(size, batch_size, seed)
        self.batch_size, self.steps_per_epoch = batch_size, size // batch_size
        self.sharding = batch_sharding()
        pieces = self.sharding.num_devices * parts
        self.padded = -(-batch_size // pieces) * pieces

    def batches(self, first_step: int = 0) -> Iterator[dict[str, jax.Array]]:
        """Endless batches from `first_step` on, prefetched: arrays (padded, ...) by name, spread over the devices.

        `padded` is the batch size rounded up to a multiple of the devices times the parts. The bool array `valid`
        (padded,) is false for the examples added, which repeat others of the batch: losses must leave them out.
        """
        steps = grain.MapDataset.range(sys.maxsize).map(self.batch)
        iterator = iter(steps.to_iter_dataset(READING))
        iterator.set_state({"next_index": first_step})
        return iterator

    def batch(self, step: int) -> dict[str, jax.Array]:
        """The batch of a step, as `batches` yields it."""
        indices = np.resize(self.indices(step), self.padded)
        valid = np.arange(self.padded) < self.batch_size
        columns = {name: gather_examples(column, indices, self.sharding) for name, column in self.columns.items()}
        return columns | {"valid": gather_examples(valid, np.arange(self.padded), self.sharding)}
