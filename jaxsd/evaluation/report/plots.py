"""Plots of results."""

import io
from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.figure import Figure

from jaxsd.evaluation.conditionings import WRONG_CAPTION
from jaxsd.evaluation.embeddings import COSINE_BINS
from jaxsd.evaluation.figures import DIRECTIONS
from jaxsd.evaluation.metrics import recall_points
from jaxsd.evaluation.results import Results

PALETTE = ("#2f5d8a", "#c05a2b", "#3f7d4e", "#8a4f7d", "#a88422", "#2a9d9d", "#b03a4a", "#4d4d4d")
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.prop_cycle": cycler(color=PALETTE),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "jaxsd",  # the same results give the same file
}


def plots(results: Results) -> Iterator[tuple[str, str, str]]:
    """Title, note and SVG of every plot there are curves for."""
    with matplotlib.rc_context(STYLE):
        if any("before" in entry for entry in results["encoders"].values()):
            yield (
                "Before and after training",
                "TCEOCS of every encoder, between chance and the least that is possible without a temperature.",
                _svg(_before_and_after(results)),
            )
        yield (
            "Retrieval",
            "How often the right one is among the first k, over k on a logarithmic axis; dashed: chance.",
            _svg(_retrieval(results)),
        )
        yield (
            "Cosines",
            "Of the pooled vectors with their own target (filled) and with another clip's (outlined).",
            _svg(_cosines(results)),
        )
        yield (
            "The 77 positions",
            "Mean cosine of the embedding at each position with the caption's hidden state there, which is where "
            "Stable Diffusion looks for it. An encoder should do better than a wrong caption.",
            _svg(_positions(results)),
        )


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _before_and_after(results: Results) -> Figure:
    entries = {name: entry for name, entry in results["encoders"].items() if "before" in entry}
    figure = Figure(figsize=(8, 0.35 * len(entries) + 1.1), layout="constrained")
    for axis, kind in zip(figure.subplots(1, 2, sharey=True), ("t", "i"), strict=True):
        axis.axvline(results["bounds"]["chance"], color="0.5", linestyle="--", linewidth=1)
        for place, entry in enumerate(entries.values()):
            before, after = (figures[f"TCEOCS_{kind}"] for figures in (entry["before"], entry["figures"]))
            axis.plot([before, after], [place, place], color=PALETTE[0], linewidth=1)
            axis.plot(before, place, "o", color=PALETTE[0], markerfacecolor="white")
            axis.plot(after, place, "o", color=PALETTE[0])
        axis.set_title(f"TCEOCS_{kind}, dashed: chance; open: before, full: after")
        axis.set_yticks(range(len(entries)), entries)
    axis.invert_yaxis()
    return figure


def _retrieval(results: Results) -> Figure:
    figure = Figure(figsize=(8, 5.2), layout="constrained")
    size = results["data"]["size"]
    ks = np.array(recall_points(size))
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    for axis, (way, arrow) in zip(axes.flat, DIRECTIONS.items(), strict=True):
        axis.plot(ks, ks / size, color="0.5", linestyle="--", linewidth=1)
        for name, entry in results["encoders"].items():
            axis.plot(ks, entry["curves"][f"recall_{way}"], label=name)
        axis.set_xscale("log")
        axis.set_title(arrow)
    figure.supxlabel("k", fontsize=9)
    figure.supylabel("recall@k", fontsize=9)
    axes[0, 0].legend(fontsize=8)
    return figure


def _cosines(results: Results) -> Figure:
    entries = results["encoders"]
    figure = Figure(figsize=(8, 1.1 * len(entries) + 0.8), layout="constrained")
    axes = figure.subplots(len(entries), 2, sharex="col", squeeze=False)
    for row, (name, entry) in zip(axes, entries.items(), strict=True):
        for axis, kind in zip(row, ("t", "i"), strict=True):
            matched, others = (np.array(entry["curves"][f"{which}_{kind}"]) for which in ("matched", "mismatched"))
            axis.stairs(matched, COSINE_BINS, fill=True, color=PALETTE[0], alpha=0.6)
            axis.stairs(others, COSINE_BINS, color=PALETTE[1])
            axis.set_yticks([])
            axis.spines["left"].set_visible(False)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for axis, kind in zip(axes[0], ("text", "image"), strict=True):
        axis.set_title(kind)
        seen = np.sum(
            [entry["curves"][f"{w}_{kind[0]}"] for entry in entries.values() for w in ("matched", "mismatched")], axis=0
        )
        first, last = np.flatnonzero(seen)[[0, -1]]
        axis.set_xlim(COSINE_BINS[max(first - 2, 0)], COSINE_BINS[min(last + 3, len(COSINE_BINS) - 1)])
    return figure


def _positions(results: Results) -> Figure:
    entries = results["encoders"] | {
        name: entry for name, entry in results["references"].items() if name == WRONG_CAPTION
    }
    figure = Figure(figsize=(8, 0.32 * len(entries) + 1.1), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(
        [entry["curves"]["positions"] for entry in entries.values()],
        aspect="auto",
        cmap="viridis",
        vmin=min(0, *(min(entry["curves"]["positions"]) for entry in entries.values())),
        vmax=1,
        interpolation="nearest",
    )
    axis.set_yticks(range(len(entries)), entries)
    axis.set_xlabel("position")
    for side in axis.spines.values():
        side.set_visible(False)
    figure.colorbar(image, label="cosine")
    return figure
