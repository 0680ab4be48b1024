"""The training loop: one jitted step over a state, checkpointed, logged, resumable."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.experimental import multihost_utils

from jaxsd.sharding import replicate, replicated_sharding
from jaxsd.training.checkpoints import Checkpoints
from jaxsd.training.metric_writers import RunLogger
from jaxsd.training.throughput import count_flops, peak_flops

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
    """Training was asked to stop and saved its state at `step`. `status` is the exit status: 0 after SIGTERM."""

    def __init__(self, folder: Path, step: int, number: int):
        super().__init__(f"stopped at step {step}, saved in {folder}; run the same command to go on")
        self.status = 0 if number == signal.SIGTERM else 128 + number


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
    everywhere = replicated_sharding()

    @partial(jax.jit, donate_argnums=0, out_shardings=everywhere)
    def step(state: TrainState, frozen: PyTree, batch: PyTree) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (loss, metrics), gradients = gradient_fn(state.params, frozen, batch, key)
        updates, opt_state = optimiser.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        decay = jnp.minimum(average_decay, (1 + state.step) / (10 + state.step))
        average = jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), state.average, params)
        norms = {"gradient_norm": optax.global_norm(gradients), "parameter_norm": optax.global_norm(params)}
        return TrainState(state.step + 1, params, average, opt_state), {"loss": loss, **metrics, **norms}

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
    keep: int = 2,
    log_every: int = 50,
    evaluate: Callable[[TrainState], dict[str, float]] | None = None,
    eval_every: int = 0,
    wandb: bool = False,
) -> TrainState:
    """Train until `steps`; the trained state, on every device.

    `step` is `make_step`'s; it gets `frozen` and what `batches(first_step)` yields from that step on. All processes of
    a job call this alike. It begins at the newest checkpoint in `folder` that can be read, and where there is none at
    `state`, be that fresh or another run's; so the same call goes on with a run that was stopped, and a finished one
    is returned at once.

    `folder` gets `checkpoints` (the `keep` newest, one every `save_every` steps), `metrics.jsonl`, TensorBoard's
    events in `tensorboard` and at the end `curves.png`; `name` stands before the progress bar. `evaluate(state)` gives
    metrics every `eval_every` steps and at the end. `wandb` also logs to Weights & Biases.

    Raises FloatingPointError naming the step where a metric of it is not finite, before a checkpoint could hold what
    came of it; Interrupted, after saving, on SIGTERM or SIGINT; OSError where the disk is full; ValueError where no
    checkpoint can be read or wandb is not installed.
    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    state, frozen = replicate((state, frozen))
    with Checkpoints(folder / "checkpoints", keep) as checkpoints, _StopSignal() as stop:
        state = checkpoints.restore(state)
        first = int(state.step)
        if first >= steps:
            return state
        with RunLogger(folder, name, first, steps, log_every, wandb) as watch:
            iterator = batches(first)
            for index in range(first, steps):
                with watch.speed.waiting():
                    batch = next(iterator)
                if index == first:
                    watch.speed.examples, watch.speed.flops = _cost(step, state, frozen, batch)
                state, metrics = step(state, frozen, batch)
                watch.step(index, metrics)
                done = index + 1
                stopping = stop.requested(done)
                evaluating = evaluate and eval_every and (done % eval_every == 0 or done == steps)
                saving = stopping or done % save_every == 0 or done == steps
                if evaluating or saving:
                    watch.settle()
                    with watch.speed.pause():
                        if evaluating:
                            watch.evaluation(index, evaluate(state))
                        if done == steps:
                            watch.draw()
                        if saving:
                            checkpoints.save(done, state)
                elif index % log_every == 0:
                    checkpoints.check()
                if stopping:
                    raise Interrupted(folder, done, stop.number)
    return state


def _cost(step, state: TrainState, frozen: PyTree, batch: PyTree) -> tuple[int, int]:
    """Examples and, where the device's peak is known to compare them with, FLOPs of one step."""
    rows = batch["valid"].sum() if isinstance(batch, dict) and "valid" in batch else len(jax.tree.leaves(batch)[0])
    return int(rows), count_flops(step.trace(state, frozen, batch).jaxpr) if peak_flops() else 0


class _StopSignal:
    """Turns SIGTERM and SIGINT into `requested` for the length of a `with` block; a second SIGINT stops at once.

    Among several processes, JAX itself listens to SIGTERM: all of them then stop after the same step.
    """

    number = None

    def __enter__(self):
        self._alone = jax.process_count() == 1
        stopping = (signal.SIGTERM, signal.SIGINT) if self._alone else ()
        self._previous = {number: signal.signal(number, self._request) for number in stopping}
        return self

    def _request(self, number, _):
        self.number = number
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def requested(self, done: int) -> bool:
        """Whether to stop after `done` steps."""
        if not self._alone and multihost_utils.reached_preemption_sync_point(done):
            self.number = signal.SIGTERM
        return self.number is not None

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
