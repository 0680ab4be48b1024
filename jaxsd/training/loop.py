"""The training loop: one jitted step over a state, checkpointed, logged, resumable."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jaxtyping import PyTree

from encoders.flops import count_flops
from jaxsd.runtime.sharding import replicate, replicated_sharding
from jaxsd.training.checkpoints import Checkpoints
from jaxsd.training.run_config import CHECKPOINTS
from jaxsd.training.run_logger import SAVING, VALIDATING, RunLogger, summarize_figures, validated
from jaxsd.training.throughput import peak_flops

Metrics = dict[str, jax.Array]
GradientFn = Callable[[PyTree, PyTree, PyTree, jax.Array], tuple[tuple[jax.Array, Metrics], PyTree]]


@jax.tree_util.register_dataclass
@dataclass
class TrainState:
    """What a checkpoint holds: the steps done (int32), parameters, their moving average, the optimizer's state.

    JAX also makes trees of this type of what is no array, such as shapes.
    """

    step: Any
    params: PyTree
    average: PyTree
    opt_state: PyTree


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop and saved its state at `step`. `status` is the exit status: 0 after SIGTERM."""

    def __init__(self, folder: Path, step: int, number: int | None):
        saved = f"at step {step}, saved in {folder}" if step else "before the first step"
        super().__init__(f"stopped {saved}; run the same command to go on")
        self.status = 130 if number == signal.SIGINT else 0


@runtime_checkable
class StepFn(Protocol):
    """A jitted step of a training."""

    def __call__(self, state: TrainState, frozen: PyTree, batch: PyTree, /) -> tuple[TrainState, Metrics]: ...

    def trace(self, state: TrainState, frozen: PyTree, batch: PyTree, /) -> Any: ...


def init_state(params: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
    # The average gets buffers of its own: the step donates the state.
    return TrainState(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), optimizer.init(params))


def make_step(
    gradient: GradientFn,
    optimizer: optax.GradientTransformation,
    seed: int,
    average_decay: float = 0.999,
    mesh: Mesh | None = None,
) -> StepFn:
    """Make the step of a training.

    Args:
        gradient: `gradient(params, frozen, batch, key) -> ((loss, metrics), gradients)`, such as
            `jax.value_and_grad(loss, has_aux=True)`. `frozen` are arrays that do not train, such as the parameters of
            models that the loss goes through.
        optimizer: turns gradients into updates.
        seed: of the keys. A key is a function of the seed and the step alone, so that a resumed run repeats an
            uninterrupted one.
        average_decay: of the moving average, which starts short: min(average_decay, (1 + t) / (10 + t)).
        mesh: the devices that the state is replicated over (default: all devices of the job).

    Returns:
        A jitted `step(state, frozen, batch) -> state, metrics`, which donates the state.
    """
    everywhere = replicated_sharding(mesh)

    @partial(jax.jit, donate_argnums=0, out_shardings=everywhere)
    def step(state: TrainState, frozen: PyTree, batch: PyTree) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (loss, metrics), gradients = gradient(state.params, frozen, batch, key)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
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
    step: StepFn,
    batches: Callable[[int], Iterator[PyTree]],
    steps: int,
    *,
    frozen: PyTree = None,
    save_every: int = 500,
    keep: int = 2,
    log_every: int = 50,
    evaluate: Callable[[TrainState], dict[str, float]] | None = None,
    eval_every: int = 0,
    summarize: Callable[[dict[str, float]], str] = summarize_figures,
    sample: Callable[[TrainState], np.ndarray] | None = None,
    export: Callable[[TrainState], None] | None = None,
    note: str = "",
    wandb: bool = False,
) -> TrainState:
    """Train until `steps`.

    Training begins at the newest checkpoint in `folder` that can be read, and where there is none at `state`, be that
    fresh or another run's. So the same call goes on with a run that was stopped, and returns the state of a finished
    one at once. All processes of a job call this alike.

    Args:
        folder: of the run. It gets `checkpoints`, `metrics.jsonl`, TensorBoard's events in `tensorboard` and at the end
            `curves.png`.
        name: stands before the progress bar.
        state: where training begins.
        step: that of `make_step`.
        batches: `batches(first_step)` yields the batches from that step on.
        steps: where training ends.
        frozen: arrays that do not train, for `step`.
        save_every: a checkpoint is saved every so many steps and at the end.
        keep: how many of the newest checkpoints are kept.
        log_every: metrics of every so many steps are written.
        evaluate: `evaluate(state)` gives figures by name.
        eval_every: `evaluate` and `sample` are called every so many steps and at the end; 0: never.
        summarize: makes the line that is shown of the figures of `evaluate`.
        sample: `sample(state)` gives images in [0, 1], which go to `samples` and TensorBoard.
        export: `export(state)` writes what others shall read of a state, with each checkpoint.
        note: a line to show before training.
        wandb: whether to log to Weights & Biases too.

    Returns:
        The trained state, on every device.

    Raises:
        FloatingPointError: a metric is not finite; the error names the step, and no checkpoint has the state after it.
        Interrupted: SIGTERM or SIGINT asked to stop; the state is saved.
        OSError: the disk is full.
        ValueError: no checkpoint can be read, or wandb is not installed.
    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    state, frozen = replicate((state, frozen))
    with Checkpoints(folder / CHECKPOINTS, keep) as checkpoints, _StopSignal(folder) as stop:
        state = checkpoints.restore(state)
        first = int(state.step)

        def due(done: int) -> bool:
            return bool(eval_every) and (done % eval_every == 0 or done == steps)

        # A run that was stopped while it was validated is validated first.
        missed = evaluate is not None and first > 0 and due(first) and not validated(folder, first - 1)
        if first >= steps and not missed:
            if export and jax.process_index() == 0:
                export(state)  # once more, for somebody may have removed it
            return state
        every = {"log_every": log_every, "save_every": save_every, "eval_every": eval_every if evaluate else 0}
        with RunLogger(folder, name, first, steps, **every, summarize=summarize, wandb=wandb) as logger:

            def validate(index: int, evaluate: Callable[[TrainState], dict[str, float]]) -> None:
                with logger.pause(VALIDATING), stop.at_once(index + 1):
                    logger.evaluation(index, evaluate(state))
                    if sample:
                        logger.images(index, sample(state))

            if note:
                logger.progress.note(note)
            if missed and evaluate:
                validate(first - 1, evaluate)
            iterator = batches(first)
            for index in range(first, steps):
                with logger.meter.waiting():
                    batch = next(iterator)
                if index == first:
                    with logger.compiling(), stop.at_once(first):
                        logger.meter.examples, logger.meter.flops = _cost(step, state, frozen, batch)
                        state, metrics = step(state, frozen, batch)
                else:
                    state, metrics = step(state, frozen, batch)
                logger.step(index, metrics)
                done = index + 1
                stopping, evaluating = stop.requested(done), evaluate is not None and due(done)
                # Before an evaluation too, which may be stopped at once.
                if stopping or evaluating or done % save_every == 0 or done == steps:
                    with logger.pause(SAVING):
                        checkpoints.save(done, state)
                        if export and jax.process_index() == 0:
                            export(state)
                elif index % log_every == 0:
                    checkpoints.check()
                if stopping:
                    raise Interrupted(folder, done, stop.number)
                if evaluate and evaluating:
                    validate(index, evaluate)
            with logger.pause("drawing curves"):
                logger.draw_curves()
    return state


def _cost(step, state: TrainState, frozen: PyTree, batch: PyTree) -> tuple[int, int]:
    """Examples and, where the device's peak is known to compare them with, FLOPs of one step."""
    valid = batch.get("valid") if isinstance(batch, dict) else None
    examples = valid.sum() if valid is not None else len(jax.tree.leaves(batch)[0])
    return int(examples), count_flops(step.trace(state, frozen, batch).jaxpr) if peak_flops() else 0


class _StopSignal:
    """Turns SIGTERM and SIGINT into `requested` for the length of a `with` block; a second SIGINT stops at once.

    Among several processes, JAX itself listens to SIGTERM: all of them then stop after the same step.
    """

    number: int | None = None

    def __init__(self, folder: Path):
        self.folder = folder
        self._saved: int | None = None  # within `at_once`, the steps of the state, which is saved

    def __enter__(self):
        self._alone = jax.process_count() == 1
        stopping = (signal.SIGTERM, signal.SIGINT) if self._alone else ()
        self._previous = {number: signal.signal(number, self._request) for number in stopping}
        # What ends other programs soon after Ctrl-C (jaxsd.runtime.cli) would not leave the time to save.
        self._wakeup = signal.set_wakeup_fd(-1) if stopping else -1
        return self

    @contextmanager
    def at_once(self, done: int) -> Iterator[None]:
        """For what leaves nothing to save, the state after `done` steps being saved: SIGINT then raises Interrupted.

        Python hears of a signal between its own instructions only, not while XLA compiles; there, what ends other
        programs ends this one.
        """
        self._saved = done
        if self._wakeup != -1:
            signal.set_wakeup_fd(self._wakeup)
        try:
            yield
        finally:
            if self._wakeup != -1:
                signal.set_wakeup_fd(-1)
            self._saved = None

    def _request(self, number, _):
        self.number = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._saved is not None and number == signal.SIGINT:
            raise Interrupted(self.folder, self._saved, number)

    def requested(self, done: int) -> bool:
        """Whether to stop after `done` steps."""
        if not self._alone and multihost_utils.reached_preemption_sync_point(done):
            self.number = signal.SIGTERM
        return self.number is not None

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._wakeup != -1:
            signal.set_wakeup_fd(self._wakeup)
