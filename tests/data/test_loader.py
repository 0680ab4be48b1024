"""Batches: every row once an epoch, in an order that only the seed and the step decide."""

import itertools

import jax
import numpy as np
import pytest

from jaxsd.data.loader import Loader, shuffled


@pytest.fixture
def columns(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "audio.npy", rng.integers(-9, 9, (23, 6)).astype(np.int16))
    np.save(tmp_path / "text.npy", np.arange(23 * 2).reshape(23, 2).astype(np.float16))
    return {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("audio", "text")}


def test_every_epoch_has_every_row_once_in_another_order():
    rows = shuffled(10, 5, seed=0)
    epochs = [np.concatenate([rows(2 * epoch), rows(2 * epoch + 1)]) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[0], shuffled(10, 5, seed=1)(0))


def test_rows_that_fill_no_batch_are_left_out_of_their_epoch(columns):
    loader = Loader(columns, ["audio"], 5, seed=0)
    assert loader.steps_per_epoch == 4
    epochs = [[loader.indices(4 * epoch + step) for step in range(4)] for epoch in range(2)]
    left_out = [set(range(23)) - set(np.concatenate(epoch)) for epoch in epochs]
    assert len(left_out[0]) == len(left_out[1]) == 3 and left_out[0] != left_out[1]


def test_a_batch_holds_the_named_columns_of_its_rows_as_stored(columns):
    loader = Loader(columns, ["text", "audio"], 5, seed=0)
    for step, batch in enumerate(itertools.islice(loader.batches(), 6)):
        assert batch.keys() == {"audio", "text", "valid"} and all(isinstance(x, jax.Array) for x in batch.values())
        for name in ("audio", "text"):
            assert batch[name].dtype == columns[name].dtype
            np.testing.assert_array_equal(batch[name], columns[name][loader.indices(step)])
        assert batch["valid"].all() and batch["valid"].shape == (5,)


def test_a_step_is_all_there_is_to_resume_from(columns):
    loader = Loader(columns, ["audio"], 5, seed=0)
    later = next(itertools.islice(loader.batches(), 6, None))
    np.testing.assert_array_equal(next(loader.batches(6))["audio"], later["audio"])


@pytest.mark.parametrize("batch_size", [0, 24])
def test_a_batch_size_that_no_epoch_fills_is_refused(columns, batch_size):
    with pytest.raises(ValueError, match=rf"batch_size is {batch_size}; allowed with 23 examples: 1 to 23"):
        Loader(columns, ["audio"], batch_size, seed=0)
