"""A contrastive run of 20 steps, the same on any devices.

python -m tests.helpers.curve FOLDER [HOST:PORT COUNT INDEX]
"""

import os
import signal
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsd.data.loader import Loader
from jaxsd.training.loop import Interrupted, fit, init_state, make_step

STEPS, BATCH = 20, 1151  # the paper's batch, a prime
FROZEN = {"turn": np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0].astype(np.float32)}
OPTIMIZER = optax.adam(1e-2)


def loss_fn(params, frozen, batch, key):
    """Cross-entropies of the pairs of the whole batch, both ways, under noise."""
    x = batch["audio"].astype(jnp.float32) / 32767
    x = x + 0.1 * jax.random.normal(key, x.shape)
    logits = jnp.tanh(x @ params["w"]) @ frozen["turn"] @ batch["text"].astype(jnp.float32).T
    valid = batch["valid"]
    pairs = jnp.diag(logits)
    across = jax.nn.logsumexp(jnp.where(valid[None, :], logits, -jnp.inf), axis=1) - pairs
    down = jax.nn.logsumexp(jnp.where(valid[:, None], logits, -jnp.inf), axis=0) - pairs
    return jnp.sum(jnp.where(valid, across + down, 0)) / valid.sum(), {}


def make_loader() -> Loader:
    rng = np.random.default_rng(0)
    audio = rng.integers(-20_000, 20_000, (3000, 24)).astype(np.int16)
    text = rng.normal(0, 1, (3000, 8)).astype(np.float16)
    return Loader({"audio": audio, "text": text, "other": text}, ["audio", "text"], BATCH, seed=0)


def train(folder: Path, batches, **options):
    state = init_state({"w": jnp.full((24, 8), 0.1) + jnp.eye(24, 8)}, OPTIMIZER)
    step = make_step(jax.value_and_grad(loss_fn, has_aux=True), OPTIMIZER, seed=0)
    return fit(folder, "curve", state, step, batches, STEPS, frozen=FROZEN, log_every=1, **options)


def stop_one(batches, index: int):
    """`batches`, with a SIGTERM to process 1 before one of them, and from then on slow: word of it takes a while."""
    for step, batch in enumerate(batches):
        if step == index and jax.process_index() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if step >= index:
            time.sleep(0.5)
        yield batch


def main(folder: Path, coordinator: str = "", count: str = "1", index: str = "0"):
    jax.config.update("jax_default_matmul_precision", "highest")
    if coordinator:
        jax.distributed.initialize(coordinator, int(count), int(index))
    loader = make_loader()
    # The rows on each device are those that one device would have at that place.
    rows = np.resize(loader.indices(2), loader.padded)
    batch = next(loader.batches(2))
    assert loader.padded % jax.device_count() == 0 and int(batch["valid"].sum()) == BATCH
    for name, column in loader.columns.items():
        for shard in batch[name].addressable_shards:
            assert shard.data.shape[0] == loader.padded // jax.device_count()
            np.testing.assert_array_equal(shard.data, column[rows][shard.index])

    train(folder / "curve", loader.batches)
    if coordinator:
        try:
            train(folder / "stopped", lambda first: stop_one(loader.batches(first), 6))
        except Interrupted as stop:
            assert stop.status == 0
        else:
            raise AssertionError("SIGTERM to one process did not stop both")
        train(folder / "stopped", loader.batches)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
