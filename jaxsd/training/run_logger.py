"""Follows a run: checks every step's metrics, writes and shows them."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from jaxsd.diffusion.pipeline import to_pil
from jaxsd.runtime.files import replacing
from jaxsd.runtime.progress import Progress, counted
from jaxsd.training.curves import draw_curves
from jaxsd.training.metric_writers import (
    METRICS,
    MetricsFile,
    MetricWriter,
    TensorBoard,
    WeightsAndBiases,
    read_metrics,
)
from jaxsd.training.throughput import ThroughputMeter

SAVING, VALIDATING = "saving", "validating"  # pauses of the training


def summarize_figures(figures: Mapping[str, float]) -> str:
    """The first three figures of an evaluation."""
    return "  ".join(f"{name} {value:.4g}" for name, value in list(figures.items())[:3])


def validated(folder: Path, index: int) -> bool:
    """Whether metrics.jsonl has figures of an evaluation after step `index`."""
    return any(line["step"] == index and "loss" not in line for line in read_metrics(folder / METRICS))


class RunLogger:
    """Follows a run from step `first` to `steps`: checks every step's metrics and writes those of each `log_every`.

    A context manager. Only process 0 writes and shows. A step's metrics are fetched after the next step is
    dispatched, so that the device does not wait for Python.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        first: int,
        steps: int,
        *,
        log_every: int,
        save_every: int,
        eval_every: int,
        summarize: Callable[[dict[str, float]], str],
        wandb: bool,
    ):
        """Follow a run.

        Args:
            folder: of the run.
            name: stands before the progress bar.
            first: the step at which this process begins.
            steps: where the run ends.
            log_every: metrics of every so many steps are written.
            save_every: a checkpoint is saved every so many steps and at the end.
            eval_every: the run is validated every so many steps and at the end; 0: never.
            summarize: makes the line that is shown of an evaluation's figures.
            wandb: whether to log to Weights & Biases too.
        """
        self.folder, self.first, self.last, self.log_every = folder, first, steps - 1, log_every
        self.summarize = summarize
        self.main = jax.process_index() == 0
        self.validates = eval_every > 0
        pauses = {SAVING: save_every, VALIDATING: eval_every}
        self.progress = Progress(name, steps, first, shown=self.main, pauses=pauses)
        self.with_wandb = wandb and self.main
        self.meter = ThroughputMeter()
        self.duration_said = False
        self.pending: tuple[int, dict[str, jax.Array]] | None = None

    def __enter__(self):
        with ExitStack() as stack:
            self.writers: list[MetricWriter] = []
            if self.with_wandb:  # first: it may be missing
                self.writers.append(stack.enter_context(closing(WeightsAndBiases(self.folder))))
            if self.main:
                self.writers.append(stack.enter_context(closing(MetricsFile(self.folder / METRICS, self.first))))
                self.writers.append(stack.enter_context(closing(TensorBoard(self.folder / "tensorboard", self.first))))
            stack.enter_context(self.progress)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        return self.stack.__exit__(*error)

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """For the first step, whose time is that of compilation; the time left is reckoned without it."""
        if not self.progress.on_terminal:
            self.progress.note("compiling")
        start = time.monotonic()
        with self.progress.status("compiling"):
            yield
        self.progress.restart(self.first)
        self.progress.note(f"compiled in {time.monotonic() - start:.0f} s")

    @contextmanager
    def pause(self, doing: str) -> Iterator[None]:
        """For what is not training: SAVING, VALIDATING and others."""
        self.settle()
        with self.meter.pause(), self.progress.pause(doing):
            yield

    def step(self, index: int, metrics: dict[str, jax.Array]) -> None:
        """Take the metrics of the step just dispatched, and check those of the one before."""
        self.settle()
        self.pending = index, metrics

    def settle(self) -> None:
        """Check the metrics taken last. Raises FloatingPointError, naming the step, if one is not finite."""
        if self.pending is None:
            return
        index, metrics = self.pending
        self.pending = None
        fetched = jax.device_get(metrics)
        values = {name: float(fetched[name]) for name in sorted(fetched, key=lambda name: name != "loss")}
        for name, value in values.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"step {index}: {name} is {value}; the last good checkpoint is kept")
        if index == self.first:
            self.meter.start()  # the first step compiles
        else:
            self.meter.steps += 1
        if index % self.log_every == 0 or index == self.last:
            values |= self.meter.read()
            self.write(index, values)
            self.progress.update({"loss": values["loss"]})
        self.progress.advance(index + 1)
        self.say_duration()

    def say_duration(self) -> None:
        """Say once, when it is known, how long a training takes that takes minutes."""
        left = None if self.duration_said else self.progress.seconds_left()
        if left is None:
            return
        self.duration_said = True
        if left >= 60:
            duration = f"{left / 60:.0f} min" if left < 2 * 3600 else f"{left / 3600:.1f} hours"
            besides = ", besides validations" * (self.validates and VALIDATING not in self.progress.pause_seconds)
            steps = self.last + 1 - self.progress.done
            self.progress.note(f"about {duration} for the {counted(steps, 'step')} to come{besides}")

    def evaluation(self, index: int, figures: dict[str, float]) -> None:
        """Write all figures of an evaluation after step `index`, and show a line of them."""
        figures = {name: float(value) for name, value in figures.items()}
        self.write(index, figures)
        self.progress.note(f"step {index + 1}  {self.summarize(figures)}")

    def write(self, index: int, values: dict[str, float]) -> None:
        for writer in self.writers:
            writer.write(index, values)

    def images(self, index: int, images: Float[np.ndarray, "count height width 3"]) -> None:
        """Write images of an evaluation after step `index`, side by side, to `samples` and TensorBoard."""
        if not self.main:
            return
        path = self.folder / "samples" / f"{index + 1:06}.png"
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as part:
            to_pil(np.concatenate(images, axis=1)[None])[0].save(part)
        for writer in self.writers:
            if isinstance(writer, TensorBoard):
                writer.write_image(index, "samples", path)

    def draw_curves(self) -> None:
        if self.main:
            draw_curves(self.folder / METRICS, self.folder / "curves.png")
