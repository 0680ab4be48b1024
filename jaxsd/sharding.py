"""The devices of a job, of one process or many: a mesh of one axis, and how arrays lie on it."""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

PyTree = Any


def data_mesh() -> Mesh:
    """All devices in one row, named "data", those of one process side by side."""
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def batch_sharding() -> NamedSharding:
    """How a batch lies: its rows spread evenly over the devices."""
    return NamedSharding(data_mesh(), PartitionSpec("data"))


def replicated_sharding() -> NamedSharding:
    """How parameters lie: whole on every device."""
    return NamedSharding(data_mesh(), PartitionSpec())


def replicate(tree: PyTree) -> PyTree:
    """The arrays of `tree`, which are equal on every process, on every device."""
    place = replicated_sharding()
    if jax.process_count() == 1:
        return jax.device_put(tree, place)
    # Not device_put, which compares every array across the processes first.
    return jax.tree.map(lambda x: jax.make_array_from_callback(x.shape, place, lambda _: np.asarray(x)), tree)


def gather_examples(column: np.ndarray, rows: np.ndarray, place: NamedSharding) -> jax.Array:
    """`column[rows]` laid out as `place` says, each process reading the rows of its own devices only."""

    def read(index):
        wanted = rows[index[0]]
        made = _aligned((len(wanted), *column.shape[1:]), column.dtype)
        return np.take(column, wanted, axis=0, out=made, mode="clip")  # the other modes copy once more

    return jax.make_array_from_callback((len(rows), *column.shape[1:]), place, read)


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array on a boundary of 64 bytes, which JAX uses on a CPU as it is where it would copy another."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)
