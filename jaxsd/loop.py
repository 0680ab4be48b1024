"""The training loop: one jitted step over a state, checkpointed, logged, resumable."""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp

from jaxsd.devices import replicate, replicated
from jaxsd.progress import Progress

PyTree = Any
Metrics = dict[str, jax.Array]
LossFn = Callable[[PyTree, PyTree, PyTree, jax.Array], tuple[jax.Array, Metrics]]
GradientFn = Callable[[PyTree, PyTree, PyTree, jax.Array], tuple[tuple[jax.Array, Metrics], PyTree]]


@jax.tree_util.register_dataclass
@dataclass
class TrainState:
    """What a checkpoint holds: step (int32), parameters, their moving average, the optimiser's state."""

    step: jax.Array
    params: PyTree
    average: PyTree
    opt_state: PyTree


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop (SIGTERM, SIGINT) and saved its state at `step`."""

    def __init__(self, folder: Path, step: int):
        super().__init__(f"stopped at step {step}, saved in {folder}; run the same command to go on")


def init_state(params: PyTree, optimiser: optax.GradientTransformation) -> TrainState:
    # The average gets buffers of its own: the step donates the state.
    return TrainState(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), optimiser.init(params))


def make_step(
    loss_fn: LossFn | None,
    optimiser: optax.GradientTransformation,
    seed: int,
    *,
    average_decay: float = 0.999,
    gradient_fn: GradientFn | None = None,
):
    """A jitted, donating `step(state, frozen, batch) -> state, metrics`.

    `loss_fn(params, frozen, batch, key) -> loss, metrics`, where `frozen` are arrays that do not train, such as the
    parameters of models the loss goes through. `gradient_fn`, which returns `(loss, metrics), gradients`, stands in
    for its derivative where given. The key is a function of `seed` and the step alone, so that a resumed run repeats
    an uninterrupted one. The moving average starts short: min(decay, (1 + t) / (10 + t)).
    """
    gradient_fn = gradient_fn or jax.value_and_grad(loss_fn, has_aux=True)
    everywhere = replicated()

    @partial(jax.jit, donate_argnums=0, out_shardings=everywhere)
    def step(state: TrainState, frozen: PyTree, batch: PyTree) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (loss, metrics), gradients = gradient_fn(state.params, frozen, batch, key)
        updates, opt_state = optimiser.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = jnp.minimum(average_decay, (1 + state.step) / (10 + state.step))
        average = jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), state.average, params)
        metrics = {"loss": loss, **metrics, "gradient_norm": optax.global_norm(gradients)}
        return TrainState(state.step + 1, params, average, opt_state), metrics

    return step


def fit(
    folder: Path,
    name: str,
    state: TrainState,
    step: Callable,
    batches: Callable[[int], Iterator[PyTree]],
    steps: int,
    *,
    frozen: PyTree = None,
    save_every: int = 500,
    log_every: int = 50,
    evaluate: Callable[[TrainState], dict[str, float]] | None = None,
    eval_every: int = 0,
) -> TrainState:
    """Train until `steps`, from the newest checkpoint in `folder` if there is one.

    `step` is `make_step`'s; it gets `frozen` and the batches that `batches(first_step)` yields from that step on.

    Writes orbax checkpoints and `metrics.jsonl` to `folder`. Raises FloatingPointError naming the step when the loss
    is not finite (the last checkpoint is kept), Interrupted after saving on SIGTERM or SIGINT.
    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(max_to_keep=2, save_interval_steps=1)
    with ocp.CheckpointManager(folder / "checkpoints", options=options) as manager, _StopSignal() as stop:
        if manager.latest_step() is not None:
            abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
            state = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(abstract))
        first = int(state.step)
        state, frozen = replicate((state, frozen))
        iterator = batches(first)
        log = MetricsLog(folder / "metrics.jsonl", first)
        pending = None
        with Progress(name, steps, first) as progress:
            for index in range(first, steps):
                state, metrics = step(state, frozen, next(iterator))
                if pending is not None:  # the step before, while this one runs
                    progress.update(log.add(*pending))
                pending = (index, metrics) if index % log_every == 0 or index + 1 == steps else None
                progress.advance(index + 1)
                done = index + 1
                if evaluate and eval_every and (done % eval_every == 0 or done == steps):
                    progress.update(log.add(index, evaluate(state)))
                if stop.requested or done % save_every == 0 or done == steps:
                    if pending is not None:
                        progress.update(log.add(*pending))
                        pending = None
                    manager.save(done, args=ocp.args.StandardSave(state), force=True)
                    manager.wait_until_finished()
                if stop.requested:
                    raise Interrupted(folder, done)
    return state


class MetricsLog:
    """Appends metrics to a JSON Lines file, cut back to the step a run resumes from."""

    def __init__(self, path: Path, first_step: int):
        self.path = path
        self.start = time.time()
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if json.loads(line)["step"] < first_step]
            path.write_text("".join(line + "\n" for line in kept))

    def add(self, step: int, metrics: dict) -> dict[str, float]:
        """Write the metrics of `step`. Raises FloatingPointError if one is not finite."""
        values = {name: float(metrics[name]) for name in sorted(metrics, key=lambda name: name != "loss")}
        for name, value in values.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"step {step}: {name} is {value}; the last good checkpoint is kept")
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "time": round(time.time() - self.start, 2), **values}) + "\n")
        return values


class _StopSignal:
    """Turns SIGTERM and SIGINT into a flag for the length of a `with` block."""

    requested = False

    def __enter__(self):
        self._previous = {s: signal.signal(s, self._request) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _request(self, *_):
        self.requested = True

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
