"""The devices of a job, of one process or many: a mesh of one axis, and how arrays lie on it."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

PyTree = Any


def mesh() -> Mesh:
    """All devices in one row, named "data", those of one process side by side."""
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def split_rows() -> NamedSharding:
    """How a batch lies: its rows spread evenly over the devices."""
    return NamedSharding(mesh(), PartitionSpec("data"))


def replicated() -> NamedSharding:
    """How parameters lie: whole on every device."""
    return NamedSharding(mesh(), PartitionSpec())


def replicate(tree: PyTree) -> PyTree:
    """The arrays of `tree`, equal on every process, on every device."""
    return jax.device_put(tree, replicated())
