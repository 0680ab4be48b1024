"""Where the figures of a run go: metrics.jsonl, TensorBoard, Weights & Biases, curves.png."""

import json
import math
import time
from contextlib import ExitStack, closing
from pathlib import Path

import jax

from jaxsd.files import read_json, replacing
from jaxsd.progress import Progress
from jaxsd.training.throughput import ThroughputMeter

METRICS = "metrics.jsonl"
VALIDATION = "validation_"
NOT_DRAWN = ("step", "time", "examples_per_second", "input_wait", "mfu")


class RunLogger:
    """Follows a run from step `first` to `steps`: looks at every step's metrics and writes those of each `log_every`.

    A context manager. Only process 0 writes and shows. A step's metrics are fetched after the next step is
    dispatched, so that the device does not wait for Python.
    """

    def __init__(self, folder: Path, name: str, first: int, steps: int, log_every: int, wandb: bool):
        self.folder, self.first, self.last, self.log_every = folder, first, steps - 1, log_every
        self.main = jax.process_index() == 0
        self.progress = Progress(name, steps, first, shown=self.main)
        self.with_wandb = wandb and self.main
        self.speed = ThroughputMeter()
        self.pending = None

    def __enter__(self):
        with ExitStack() as stack:
            self.writers = []
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

    def step(self, index: int, metrics: dict[str, jax.Array]):
        """Take the metrics of the step just dispatched, and look at those of the one before."""
        self.settle()
        self.pending = index, metrics

    def settle(self):
        """Look at the metrics taken last. Raises FloatingPointError, naming the step, if one is not finite."""
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
            self.speed.start()  # the first step compiles
        else:
            self.speed.steps += 1
        if index % self.log_every == 0 or index == self.last:
            values |= self.speed.read()
            self.write(index, values)
            shown = {"loss": "loss", "examples_per_second": "examples/s"}
            self.progress.update({text: values[name] for name, text in shown.items() if name in values})
        self.progress.advance(index + 1)

    def evaluation(self, index: int, values: dict[str, float]):
        """Write and show figures of an evaluation after step `index`."""
        values = {name: float(value) for name, value in values.items()}
        self.write(index, values)
        self.progress.note(", ".join(f"{name} {value:.4g}" for name, value in values.items()))

    def write(self, index: int, values: dict[str, float]):
        for writer in self.writers:
            writer.write(index, values)

    def draw(self):
        if self.main:
            draw_curves(self.folder / METRICS, self.folder / "curves.png")


class MetricsFile:
    """One JSON object a line: step, seconds of training so far, metrics. What is not finite is null.

    Lines of `first_step` and later are removed: a run that resumes there writes them anew.
    """

    def __init__(self, path: Path, first_step: int):
        kept = [line for line in read_metrics(path) if line["step"] < first_step]
        with replacing(path) as part:
            part.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self.file = path.open("a", buffering=1)
        self.start = time.time() - (kept[-1]["time"] if kept else 0.0)

    def write(self, step: int, metrics: dict[str, float]):
        values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self.file.write(json.dumps({"step": step, "time": round(time.time() - self.start, 2), **values}) + "\n")

    def close(self):
        self.file.close()


def read_metrics(path: Path) -> list[dict]:
    """The lines of a metrics.jsonl, without a last one that a kill cut short; none where there is no file."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines if line]


class TensorBoard:
    """Event files. Those of steps from `first_step` on that an earlier process wrote are marked as void."""

    def __init__(self, folder: Path, first_step: int):
        # Here, not above: it takes a third of a second that programs without training need not wait for.
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.Event, self.Summary = event_pb2.Event, summary_pb2.Summary
        self.writer = EventFileWriter(str(folder))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self.writer.add_event(self.Event(wall_time=time.time(), step=first_step, session_log=start))

    def write(self, step: int, metrics: dict[str, float]):
        values = [self.Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self.writer.add_event(self.Event(wall_time=time.time(), step=step, summary=self.Summary(value=values)))
        self.writer.flush()

    def close(self):
        self.writer.close()


class WeightsAndBiases:
    """A run of the project "jaxsd", named like the folder; a resumed run goes on under the same id."""

    def __init__(self, folder: Path):
        try:
            import wandb
        except ImportError:
            raise ValueError("Weights & Biases is not installed; pip install wandb, or leave out --wandb") from None
        config = folder / "config.json"
        identity = folder / "wandb-id"
        if not identity.exists():
            with replacing(identity) as part:
                part.write_text(wandb.util.generate_id())
        self.run = wandb.init(
            project="jaxsd",
            name=folder.name,
            id=identity.read_text(),
            resume="allow",
            dir=folder,
            config=read_json(config) if config.exists() else None,
        )

    def write(self, step: int, metrics: dict[str, float]):
        self.run.log(metrics, step=step)

    def close(self):
        self.run.finish()


def draw_curves(metrics: Path, picture: Path):
    """Draw the metrics of a run over its steps, a panel each; `validation_x` shares that of the training's `x`."""
    from matplotlib.figure import Figure  # slow to import, see TensorBoard

    lines = read_metrics(metrics)
    names = list(dict.fromkeys(name for line in lines for name in line if name not in NOT_DRAWN))
    panels = list(dict.fromkeys(name.removeprefix(VALIDATION) for name in names))
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.5 * columns, 3 * rows), layout="constrained")
    for place, panel in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, place, title=panel, xlabel="step")
        for name, label in ((panel, "training"), (VALIDATION + panel, "validation")):
            points = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 50 else None)
        axes.legend()
        axes.grid(alpha=0.3)
    with replacing(picture) as part:
        figure.savefig(part, dpi=100)
