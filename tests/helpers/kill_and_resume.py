"""Kills a small training run at random moments, resumes it each time, and compares the end with a run left alone.

python -m tests.helpers.kill_and_resume [--kills 20] [--seed 0]
"""

import argparse
import multiprocessing
import os
import random
import signal
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp

from jaxsd.data.loader import Loader
from jaxsd.training.loop import fit, init_state, make_step
from jaxsd.training.metric_writers import read_metrics

STEPS, SAVE_EVERY = 150, 5
WIDTH = 192  # wide enough that a good part of the time goes into saving


def train(folder: Path, cache: Path):
    """Train a small model to the end in `folder`, from where it stands."""
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

    def loss_fn(params, frozen, batch, key):
        x = batch["x"].astype(jnp.float32) / 32767
        noise = 0.1 * jax.random.normal(key, x.shape)
        error = jnp.tanh((x + noise) @ params["in"]) @ params["out"] - x
        return jnp.mean(error**2), {}

    rng = np.random.default_rng(0)
    columns = {"x": rng.integers(-20_000, 20_000, (100, WIDTH)).astype(np.int16)}
    params = {name: jnp.asarray(rng.normal(0, 0.1, (WIDTH, WIDTH)), jnp.float32) for name in ("in", "out")}
    optimizer = optax.adam(1e-3)
    loader = Loader(columns, ["x"], 16, seed=0)
    step = make_step(jax.value_and_grad(loss_fn, has_aux=True), optimizer, seed=0)
    fit(folder, "train", init_state(params, optimizer), step, loader.batches, STEPS, save_every=SAVE_EVERY, log_every=1)


def final_files(folder: Path) -> tuple[dict, list]:
    """The arrays of the last checkpoint, and the metrics of every step less those that tell the time."""
    with ocp.CheckpointManager(folder / "checkpoints") as manager:
        state = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore())
    kept = ("step", "loss", "gradient_norm", "parameter_norm")
    return state, [{name: line[name] for name in kept} for line in read_metrics(folder / "metrics.jsonl")]


def steps_done(folder: Path) -> int:
    metrics = folder / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def kill_and_resume(folder: Path, kills: int, seed: int) -> dict[str, int]:
    """Kill a run `kills` times, at random steps or soon after a start, then let it end; how often a kill met what."""
    # The server has everything imported and makes each process by a fork.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__, "matplotlib.figure"])
    cache, whole, broken = folder / "cache", folder / "whole", folder / "broken"

    def start(run):
        process = processes.Process(target=train, args=(run, cache))
        process.start()
        return process

    alone = start(whole)
    alone.join()
    assert alone.exitcode == 0
    chance = random.Random(seed)
    seen = {"kills": 0, "in a start": 0, "during a save": 0}
    for step in sorted(chance.randrange(STEPS * 9 // 10) for _ in range(kills)):
        process = start(broken)
        if early := chance.random() < 0.2:
            time.sleep(chance.random())
        else:
            while process.is_alive() and steps_done(broken) <= step:
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.02))
        assert process.is_alive(), f"the run ended before it could be killed at step {step}"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        seen["kills"] += 1
        seen["in a start"] += early
        seen["during a save"] += any((broken / "checkpoints").glob("*tmp*"))
    last = start(broken)
    last.join()
    assert last.exitcode == 0
    (state, lines), (expected_state, expected_lines) = final_files(broken), final_files(whole)
    assert jax.tree.all(jax.tree.map(np.array_equal, state, expected_state)), "the final states differ"
    assert lines == expected_lines, "the metrics differ"
    return seen


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start = time.time()
        seen = kill_and_resume(Path(folder), arguments.kills, arguments.seed)
    print(", ".join(f"{name} {count}" for name, count in seen.items()))
    print(f"bit-equal after {STEPS} steps ({time.time() - start:.0f} s)")


if __name__ == "__main__":
    main()
