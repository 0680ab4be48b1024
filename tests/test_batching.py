"""Many examples in batches of one size."""

import numpy as np
import pytest

from jaxsd.batching import map_batches, padded_batches


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
