"""The training loop: it learns, resumes bit for bit, and stops on what is not finite."""

import json
import os
import signal
from itertools import count

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsd.data.loader import shuffled
from jaxsd.loop import Interrupted, fit, init_state, make_step

OPTIMISER = optax.adam(0.1)


def loss_fn(params, frozen, batch, key):
    noise = 0.01 * jax.random.normal(key, params["w"].shape)
    error = batch @ (params["w"] + noise) - batch.sum(axis=1)
    return jnp.mean(error**2), {"first": params["w"][0]}


def train(folder, steps, batch=None, **options):
    data = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    rows = shuffled(len(data), 8, seed=0)
    state = init_state({"w": jnp.zeros(3)}, OPTIMISER)
    step = make_step(loss_fn, OPTIMISER, seed=0)
    batch = batch or (lambda i: data[rows(i)])
    return fit(folder, "test", state, step, lambda first: map(batch, count(first)), steps, log_every=1, **options)


def test_it_learns(tmp_path):
    state = train(tmp_path, 200)
    np.testing.assert_allclose(state.params["w"], 1, atol=0.05)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 200 and losses[-1] < losses[0] / 100


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = train(tmp_path / "whole", 30)
    train(tmp_path / "parts", 11, save_every=5)
    parts = train(tmp_path / "parts", 30, save_every=5)
    assert jax.tree.all(jax.tree.map(np.array_equal, whole, parts))
    logs = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    steps = [[(line["step"], line["loss"]) for line in map(json.loads, log)] for log in logs]
    assert steps[0] == steps[1]


def test_sigterm_saves_and_says_how_to_go_on(tmp_path):
    data = np.ones((8, 3), np.float32)

    def batch(step):
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return data

    with pytest.raises(Interrupted, match="stopped at step 5, .* run the same command to go on"):
        train(tmp_path / "stopped", 20, batch)
    resumed = train(tmp_path / "stopped", 20, lambda step: data)
    assert jax.tree.all(jax.tree.map(np.array_equal, resumed, train(tmp_path / "whole", 20, lambda step: data)))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path):
    def batch(step):
        return np.full((8, 3), np.nan if step == 7 else 1.0, np.float32)

    with pytest.raises(FloatingPointError, match="step 7: loss is nan"):
        train(tmp_path, 20, batch, save_every=5)
    assert (tmp_path / "checkpoints" / "5").is_dir()


def test_every_epoch_has_every_row_once_in_another_order():
    rows = shuffled(10, 5, seed=0)
    epochs = [np.concatenate([rows(2 * epoch), rows(2 * epoch + 1)]) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[0], shuffled(10, 5, seed=1)(0))
