"""Where the figures of a run are written: metrics.jsonl, TensorBoard, Weights & Biases."""

import importlib
import json
import math
import time
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from PIL import Image

from jaxsd.runtime.files import read_json, replacing

METRICS = "metrics.jsonl"


@runtime_checkable
class MetricWriter(Protocol):
    """What writes the figures of a step, by name."""

    def write(self, step: int, metrics: dict[str, float]) -> None: ...

    def close(self) -> None: ...


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
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.Event, self.Summary = Event, Summary
        self.writer = EventFileWriter(str(folder))
        start = SessionLog(status=SessionLog.START)
        self.writer.add_event(self.Event(wall_time=time.time(), step=first_step, session_log=start))

    def write(self, step: int, metrics: dict[str, float]):
        values = [self.Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()]
        self.writer.add_event(self.Event(wall_time=time.time(), step=step, summary=self.Summary(value=values)))
        self.writer.flush()

    def write_image(self, step: int, name: str, path: Path):
        """Write the PNG file at `path`."""
        with Image.open(path) as image:
            size = {"width": image.width, "height": image.height, "colorspace": 3}
        encoded = self.Summary.Image(encoded_image_string=path.read_bytes(), **size)
        summary = self.Summary(value=[self.Summary.Value(tag=name, image=encoded)])
        self.writer.add_event(self.Event(wall_time=time.time(), step=step, summary=summary))
        self.writer.flush()

    def close(self):
        self.writer.close()


def import_wandb() -> Any:
    """The package of Weights & Biases. Raises ValueError where it is not installed."""
    try:
        return importlib.import_module("wandb")
    except ImportError:
        raise ValueError("Weights & Biases is not installed; pip install wandb, or leave out --wandb") from None


class WeightsAndBiases:
    """A run of the project "jaxsd", named like the folder; a resumed run goes on under the same id."""

    def __init__(self, folder: Path):
        wandb = import_wandb()
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
