"""Arrays on meshes of the devices that are there, and many examples in batches of one size."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxsd.runtime.sharding import (
    batch_sharding,
    gather_examples,
    local_mesh,
    map_batches,
    padded_batches,
    round_up,
    shard_batch,
)
from tests.helpers.processes import environment_of_devices


def test_examples_are_gathered_in_the_order_asked_for():
    column = np.arange(30, dtype=np.int16).reshape(10, 3)
    indices = np.array([7, 0, 7, 9])
    batch = gather_examples(column, indices, batch_sharding())
    assert isinstance(batch, jax.Array) and batch.dtype == np.int16
    np.testing.assert_array_equal(batch, column[indices])


def test_a_local_mesh_has_no_more_devices_than_there_are_examples():
    assert local_mesh(1).size == 1
    assert local_mesh(10_000).size == jax.local_device_count()


def test_a_batch_is_filled_up_with_its_last_example():
    code = """
import numpy as np
from jaxsd.runtime.sharding import local_mesh, shard_batch
batch = shard_batch({"x": np.arange(5), "y": np.ones((5, 2))}, local_mesh(5))
assert batch["x"].tolist() == [0, 1, 2, 3, 4, 4, 4, 4] and batch["y"].shape == (8, 2)
assert len(batch["x"].sharding.device_set) == 4
"""
    subprocess.run([sys.executable, "-c", code], env=environment_of_devices(4), check=True)


def test_batches_of_many_sizes_become_few():
    sizes = [round_up(count) for count in range(1, 65)]
    assert all(count <= size < 1.5 * count for count, size in enumerate(sizes, 1))
    assert sorted(set(sizes)) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert shard_batch(np.arange(5), local_mesh(1), few_sizes=True).tolist() == [0, 1, 2, 3, 4, 4]


def test_the_last_example_fills_up_the_last_batch():
    batches = [(indices.tolist(), count) for indices, count in padded_batches(5, 3)]
    assert batches == [([0, 1, 2], 3), ([3, 4, 4], 2)]
    assert not list(padded_batches(0, 3))


@pytest.mark.parametrize("count", [1, 4, 6])
def test_a_function_sees_batches_of_one_size_and_gives_every_example_once(count):
    examples, sizes = np.arange(2 * count).reshape(count, 2), set()

    def function(batch):
        sizes.add(len(batch))
        return {"sum": np.sum(batch, axis=1), "twice": 2 * np.asarray(batch)}

    for given in (examples, list(examples)):
        outputs = map_batches(function, given, 3)
        np.testing.assert_array_equal(outputs["sum"], examples.sum(axis=1))
        np.testing.assert_array_equal(outputs["twice"], 2 * examples)
    assert sizes == {3}
