"""The results of an evaluation: what results.json holds."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Shaped

from jaxsd.evaluation import metrics
from jaxsd.evaluation.figures import FIGURES, Figure
from jaxsd.evaluation.inputs import EvaluationSplit
from jaxsd.evaluation.kept_images import map_folders
from jaxsd.runtime.files import read_json, write_json

Results = dict[str, Any]
"""A tree of dictionaries: "data", "settings", "bounds", "encoders" and "references"; the latter two hold entries by
name."""


@dataclass
class Entry:
    """What is known of one encoder or one reference conditioning.

    figures: by key. intervals: the 95 % intervals of some of them. curves: lists of numbers to draw. about: what else
    results.json says of the encoder.
    """

    figures: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    curves: dict[str, list] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    def estimate(self, figure: Figure | str, values: Shaped[np.ndarray, " n"]):
        """Add a figure, or the figure of that key, that is declared with an interval, from one value a clip."""
        figure = FIGURES[figure] if isinstance(figure, str) else figure
        self.figures[figure.key], self.intervals[figure.key] = figure.estimate(values)

    def set(self, figures: dict[str, float]):
        """Add declared figures as they are. Raises KeyError for a key that is not declared."""
        self.figures |= {FIGURES[key].key: value for key, value in figures.items()}

    def to_json(self) -> dict[str, Any]:
        return {**self.about, "figures": self.figures, "intervals": self.intervals, "curves": self.curves}


def empty_results(split: EvaluationSplit, text_pooling: str, similarity: str | None = None) -> Results:
    """The results of no encoder: all that must agree for results to stand side by side.

    `similarity` names the embedding of sounds and images that AIS is of, where it is not the evaluated encoder's.
    """
    chosen = {"similarity": similarity} if similarity else {}
    return {
        "data": {
            "folder": str(split.folder),
            "size": len(split),
            "identity": split.identity(),
            **{name: split.metadata.get(name) for name in ("clip", "diffusion")},
        },
        "settings": {"text_pooling": text_pooling, "device": jax.devices()[0].device_kind, **chosen},
        "bounds": {"chance": metrics.chance(len(split)), "floor": metrics.floor(len(split))},
        "encoders": {},
        "references": {},
    }


def merge_results(results: Sequence[Results]) -> Results:
    """Results side by side. Raises ValueError where they are of different data or settings, or share a name."""
    first = results[0]
    merged = {key: value for one in reversed(results) for key, value in one.items()}
    merged |= {"encoders": dict(first["encoders"]), "references": dict(first["references"])}
    for other in results[1:]:
        for what, key in (("data", "identity"), ("settings", "text_pooling"), ("settings", "similarity")):
            if other[what].get(key) != first[what].get(key):
                folders = f"{first['data']['folder']} and {other['data']['folder']}"
                raise ValueError(f"{folders} differ in {what}: {key} {first[what].get(key)} and {other[what].get(key)}")
        if both := sorted(merged["encoders"].keys() & other["encoders"].keys()):
            raise ValueError(f"two results for {', '.join(both)}; names must differ")
        merged["encoders"] |= other["encoders"]
        merged["references"] |= other["references"]
    return merged


def write_results(path: Path, results: Results):
    """Write results.json. Numbers that JSON lacks become texts: "nan", "inf", "-inf".

    Folders of images are written relative to the folder of results.json.
    """
    relative = map_folders(results, lambda folder: os.path.relpath(folder, path.parent))
    write_json(path, _map_floats(relative))


def read_results(path) -> Results:
    """What `write_results` wrote. Raises ValueError for another file."""
    results = read_json(path)
    if not {"data", "settings", "bounds", "encoders", "references"} <= results.keys():
        raise ValueError(f"{path}: not the results of an evaluation")
    for entry in (*results["encoders"].values(), *results["references"].values()):
        for figures in (entry["figures"], entry.get("before", {})):
            figures.update({name: float(value) for name, value in figures.items()})
    return map_folders(results, lambda folder: str(Path(path).parent / folder))


def _map_floats(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _map_floats(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_map_floats(value) for value in tree]
    return str(tree) if isinstance(tree, float) and not math.isfinite(tree) else tree
