"""Results on the terminal and on disk."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxsd.evaluation.evaluate import Results
from jaxsd.evaluation.report.page import to_page
from jaxsd.evaluation.report.plots import contact_sheet
from jaxsd.evaluation.report.tables import show, to_csv, to_markdown
from jaxsd.files import read_json, replacing, write_json

__all__ = ["contact_sheet", "merge", "read", "show", "write"]


def write(results: Results, folder) -> Path:
    """Write results.json, results.csv, results.md and report.html, each whole or not at all; the report's path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", _each_number(results, lambda x: x if math.isfinite(x) else str(x)))
    for name, text in (
        ("results.csv", to_csv(results)),
        ("results.md", to_markdown(results)),
        ("report.html", to_page(results)),
    ):
        with replacing(folder / name) as part:
            part.write_text(text)
    return folder / "report.html"


def read(path) -> Results:
    """A results.json, in which numbers that JSON lacks are texts: "nan", "inf", "-inf"."""
    results = read_json(path)
    if not {"data", "settings", "encoders", "references"} <= results.keys():
        raise ValueError(f"{path}: not the results of an evaluation")
    for entry in (*results["encoders"].values(), *results["references"].values()):
        for figures in (entry["figures"], entry.get("before", {})):
            figures.update({name: float(value) for name, value in figures.items()})
    return results


def merge(results: Sequence[Results]) -> Results:
    """Results side by side. Raises ValueError where they are of different data or settings, or share a name."""
    first = results[0]
    merged = {**first, "encoders": dict(first["encoders"])}
    for other in results[1:]:
        for what, key in (("data", "identity"), ("settings", "text_pooling")):
            if other[what][key] != first[what][key]:
                folders = f"{first['data']['folder']} and {other['data']['folder']}"
                raise ValueError(f"{folders} differ in {what}: {key} {first[what][key]} and {other[what][key]}")
        if both := sorted(merged["encoders"].keys() & other["encoders"].keys()):
            raise ValueError(f"two results for {', '.join(both)}; names must differ")
        merged["encoders"] |= other["encoders"]
    return merged


def _each_number(tree: Any, change) -> Any:
    if isinstance(tree, dict):
        return {key: _each_number(value, change) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_each_number(value, change) for value in tree]
    return change(tree) if isinstance(tree, float) else tree
