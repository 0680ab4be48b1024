"""curves.png: the figures of a run over its steps."""

import math
from pathlib import Path

from jaxsd.files import replacing
from jaxsd.training.metric_writers import read_metrics

VALIDATION = "validation_"
NOT_DRAWN = ("step", "time", "examples_per_second", "input_wait", "mfu")


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
