"""Meshes of devices, how arrays lie on them, and batches of one size.

`data_mesh` holds all devices of a job, of one process or many: training and validation run on it. `local_mesh` holds
devices of this process alone: what a process computes without the others, such as images, runs on it.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int, PyTree, Shaped

AXIS = "data"  # the one axis of a mesh; the first axis of a batch is spread over it


def data_mesh() -> Mesh:
    """A mesh of all devices of the job, those of one process side by side."""
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def local_mesh(examples: int) -> Mesh:
    """A mesh of this process's devices, of no more than there are `examples` to compute.

    Under `jax.default_device` it is that device alone, or the devices of the platform that it names.
    """
    default = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    devices = jax.local_devices(backend=default) if default is None or isinstance(default, str) else [default]
    return Mesh(np.array(devices[:examples]), (AXIS,))


def batch_sharding(mesh: Mesh | None = None) -> NamedSharding:
    """How a batch lies on `mesh` (by default on all devices of the job): its examples are spread evenly."""
    return NamedSharding(mesh or data_mesh(), PartitionSpec(AXIS))


def replicated_sharding(mesh: Mesh | None = None) -> NamedSharding:
    """How parameters lie on `mesh` (by default on all devices of the job): every device holds them whole."""
    return NamedSharding(mesh or data_mesh(), PartitionSpec())


def replicate(tree: PyTree) -> PyTree:
    """Put the arrays of `tree` on every device of the job. They must be equal on every process."""
    sharding = replicated_sharding()
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    # Not device_put, which compares every array across the processes first.
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, sharding, lambda _: np.asarray(x)), tree)


def round_up(count: int) -> int:
    """The least of 1, 2, 3, 4, 6, 8, 12, 16, ... that is not below `count`: sizes for which few programs compile."""
    power = 1 << (count - 1).bit_length()
    return power * 3 // 4 if power > 2 and count <= power * 3 // 4 else power


def examples_at_once(mesh: Mesh, examples: int) -> int:
    """How many of `examples` to compute at a time where no bit may depend on the others: all, or on CPUs one a device.

    A batch of another size is another program, which rounds differently. On a CPU, one example after the other
    takes up to twice as long for small models.
    """
    return mesh.size if mesh.devices.flat[0].platform == "cpu" else examples


def shard_batch(tree: PyTree, mesh: Mesh, *, few_sizes: bool = False) -> PyTree:
    """Spread the arrays (batch, ...) of `tree` over the devices of a mesh of this process.

    Where the devices do not divide the batch, its last example is repeated until they do. With `few_sizes`, it is
    repeated until every device has one of the numbers that `round_up` gives.
    """
    count = len(jax.tree.leaves(tree)[0])
    each = -(-count // mesh.size)
    missing = (round_up(each) if few_sizes else each) * mesh.size - count
    if missing:
        tree = jax.tree.map(lambda x: jnp.concatenate([x, jnp.repeat(x[-1:], missing, axis=0)]), tree)
    return jax.device_put(tree, batch_sharding(mesh))


def gather_examples(
    column: Shaped[np.ndarray, "size ..."], indices: Int[np.ndarray, " batch"], sharding: NamedSharding
) -> Shaped[jax.Array, "batch ..."]:
    """`column[indices]` laid out by `sharding`. Each process reads the examples of its own devices only."""

    def read(index):
        chosen = indices[index[0]]
        examples = _empty_aligned((len(chosen), *column.shape[1:]), column.dtype)
        return np.take(column, chosen, axis=0, out=examples, mode="clip")  # the other modes copy once more

    return jax.make_array_from_callback((len(indices), *column.shape[1:]), sharding, read)


def _empty_aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array on a boundary of 64 bytes, which JAX uses on a CPU as it is where it would copy another."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


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
    outputs = []
    for indices, count in padded_batches(len(examples), size):
        batch = examples[indices] if isinstance(examples, np.ndarray) else [examples[index] for index in indices]
        outputs.append(jax.tree.map(lambda x, count=count: np.asarray(x)[:count], function(batch)))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)
