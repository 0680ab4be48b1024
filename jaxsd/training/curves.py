"""curves.png: the figures of a run that matter, over its steps."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jaxsd.evaluation.figures import DIRECTIONS
from jaxsd.runtime.files import replacing
from jaxsd.training.metric_writers import read_metrics

VALIDATION = "validation_"
MOST_PANELS = 12
COLUMNS_OF_PANELS = 3
NOT_DRAWN = ("step", "time", "examples_per_second", "input_wait", "mfu", "parameter_norm")


@dataclass(frozen=True)
class Panel:
    """Figures of one quantity: the key of each curve by its label, and dashed lines that one value of a figure makes.

    `lines` has for each label the figure's key, and the line's height from the figure's value. A panel is
    `logarithmic` where the first values would leave the others no room.
    """

    title: str
    curves: Mapping[str, str]
    lines: Mapping[str, tuple[str, Callable[[float], float]]] = field(default_factory=dict)
    logarithmic: bool = False


def _examples(chance: float) -> float:
    """How many examples have this chance level of TCEOCS, 2 ln M."""
    return math.exp(chance / 2)


PANELS = (
    Panel(
        "denoising loss",
        {"training": "denoise", "validation": f"{VALIDATION}denoise"},
        {"no caption": (f"{VALIDATION}denoise_unconditional", float)},
        logarithmic=True,
    ),
    Panel(
        "the paper's loss, validation",
        {"validation": f"{VALIDATION}loss"},
        {
            "chance": (f"{VALIDATION}chance", lambda value: value / 3),
            "floor without a temperature": (f"{VALIDATION}floor", lambda value: value / 3),
        },
    ),
    Panel(
        "recall@10, validation",
        {name: f"{VALIDATION}R@10_{way}" for way, name in DIRECTIONS.items()},
        {"chance": (f"{VALIDATION}chance", lambda value: min(1, 10 / _examples(value)))},
    ),
    Panel(
        "median rank, validation",
        {name: f"{VALIDATION}medR_{way}" for way, name in DIRECTIONS.items()},
        {"chance": (f"{VALIDATION}chance", lambda value: (_examples(value) + 1) / 2)},
        logarithmic=True,
    ),
    Panel(
        "R² of the embeddings, validation",
        {"text": f"{VALIDATION}mu(R2)_t", "image": f"{VALIDATION}mu(R2)_i"},
        {"the mean": (f"{VALIDATION}chance", lambda _: 0.0)},
    ),
)


def draw_curves(metrics: Path, path: Path) -> None:
    """Draw the metrics of a run to an image file: first those of training, a panel each, then those of validation."""
    from matplotlib.figure import Figure  # slow to import, and not needed to train
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    lines = read_metrics(metrics)
    panels = _panels({name for line in lines for name in line}, lines)
    columns = min(COLUMNS_OF_PANELS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.5 * columns, 3 * rows), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    for place, panel in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, place, title=panel.title, xlabel="step")
        for label, key in panel.curves.items():
            points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 50 else None)
        for number, (label, (key, height)) in enumerate(panel.lines.items()):
            values = [line[key] for line in lines if line.get(key) is not None]
            if values:
                axes.axhline(height(values[-1]), label=label, color=f"{0.3 + 0.3 * number}", linestyle="--")
        if len(axes.get_legend_handles_labels()[0]) > 1:
            axes.legend(fontsize="small")
        axes.grid(alpha=0.3, which="both")
        if panel.logarithmic:  # with numbers also where no power of ten is in sight
            axes.set_yscale("log", subs=(2, 5))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
    with replacing(path) as part:
        figure.savefig(part, dpi=100)


def _panels(names: set[str], lines: list[dict]) -> list[Panel]:
    """A panel for each quantity that there is."""
    declared = [panel for panel in PANELS if names & set(panel.curves.values())]
    drawn = {key for panel in declared for key in panel.curves.values()}
    of_training = dict.fromkeys(name for line in lines if "loss" in line for name in line)
    others = [name for name in of_training if name not in drawn and name not in NOT_DRAWN]
    others.sort(key=lambda name: (name != "loss", name == "gradient_norm"))
    panels = [Panel(f"{name.replace('_', ' ')}, training", {"training": name}) for name in others]
    return panels[: MOST_PANELS - len(declared)] + declared
