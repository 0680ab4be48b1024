"""Batches from memory-mapped columns: Grain orders and prefetches steps, a batch is one gather a column."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache

import grain
import jax
import numpy as np

from jaxsd.sharding import batch_sharding, gather_examples

# A batch is gathered by one thread; several are in the making so that a slow disk has several requests to serve.
READING = grain.ReadOptions(num_threads=4, prefetch_buffer_size=4)


def shuffled(size: int, batch_size: int, seed: int) -> Callable[[int], np.ndarray]:
    """`batch(step) -> indices (batch_size,)`: epochs of `range(size)`, each in its own order, by seed.

    The rows of an epoch that do not fill a batch are left out of it. Raises ValueError where none is filled.
    """
    if not 0 < batch_size <= size:
        raise ValueError(f"batch_size is {batch_size}; allowed with {size} rows of data: 1 to {size}")
    steps = size // batch_size
    order = lru_cache(maxsize=2)(lambda epoch: np.random.default_rng([seed, epoch]).permutation(size))

    def batch(step: int) -> np.ndarray:
        epoch, place = divmod(step, steps)
        return order(epoch)[place * batch_size : (place + 1) * batch_size]

    return batch


class Loader:
    """Shuffled batches of the columns `names`, the same whatever the number of devices and processes.

    `columns` are arrays with a row an example, memory-mapped ones for instance; `seed` orders each epoch anew. A batch
    is a function of the step alone, so that a step is all there is to resume from. Every device's share of it can be
    cut into `parts` of one size. Raises ValueError where the batch size is not one of 1 to the number of rows.
    """

    def __init__(
        self, columns: Mapping[str, np.ndarray], names: Sequence[str], batch_size: int, seed: int, parts: int = 1
    ):
        self.columns = {name: columns[name] for name in names}
        size = len(next(iter(self.columns.values())))
        self.rows = shuffled(size, batch_size, seed)
        self.batch_size, self.steps_per_epoch = batch_size, size // batch_size
        self.sharding = batch_sharding()
        pieces = self.sharding.num_devices * parts
        self.padded = -(-batch_size // pieces) * pieces

    def batches(self, first_step: int = 0) -> Iterator[dict[str, jax.Array]]:
        """Endless batches from `first_step` on, prefetched: name -> (padded, ...), rows spread over the devices.

        `padded` is the batch size rounded up to a multiple of the devices times the parts; the bool column `valid`
        (padded,) is false for the rows added, which repeat others of the batch: losses must leave them out.
        """
        steps = grain.MapDataset.range(sys.maxsize).map(self.batch)
        iterator = iter(steps.to_iter_dataset(READING))
        iterator.set_state({"next_index": first_step})
        return iterator

    def batch(self, step: int) -> dict[str, jax.Array]:
        rows = np.resize(self.rows(step), self.padded)
        valid = np.arange(self.padded) < self.batch_size
        columns = {name: gather_examples(column, rows, self.sharding) for name, column in self.columns.items()}
        return columns | {"valid": gather_examples(valid, np.arange(self.padded), self.sharding)}
