"""The tables of an evaluation, for the terminal, Markdown, HTML and CSV."""

import csv
import io
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from jaxsd.evaluation.evaluate import CAPTION, Results


@dataclass(frozen=True)
class Table:
    """A title, a sentence on how to read it, column heads (the first of the row names) and rows of texts."""

    title: str
    note: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def to_markdown(self) -> str:
        lines = (self.head, ("---", *["---:"] * (len(self.head) - 1)), *self.rows)
        return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)


def _decimals(places: int) -> Callable[[float], str]:
    return lambda value: f"{value:z,.{places}f}"


def _digits(count: int) -> Callable[[float], str]:
    return lambda value: f"{value:.{count}g}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")


def _percent(value: float) -> str:
    return f"{100 * value:z.1f} %"


def _whole_percent(value: float) -> str:
    return f"{100 * value:.0f} %"


KINDS = ("t", "i", "rt")
WAYS = {"a2t": "audio → text", "t2a": "text → audio", "a2i": "audio → image", "i2a": "image → audio"}
PAPER = (
    ("loss", "loss", _decimals(5)),
    ("τ, seconds for 1,000 clips", "tau", _digits(4)),
    ("τ with transfer", "tau with transfer", _digits(4)),
    *(
        row
        for kind in KINDS
        for row in (
            *([(f"TCEOCS_{kind}", f"TCEOCS_{kind}", _decimals(5))] if kind != "rt" else []),
            (f"μ(MSE)_{kind}", f"mu(MSE)_{kind}", _digits(3)),
            (f"μ(R²)_{kind}", f"mu(R2)_{kind}", _digits(4)),
            (f"σ(R²)_{kind}", f"sigma(R2)_{kind}", _digits(4)),
        )
    ),
)
BESIDE = (
    ("TCEOCS_t, of the way from chance to the least", "reach_t", _percent),
    ("TCEOCS_i, of the way from chance to the least", "reach_i", _percent),
    *(
        row
        for kind in KINDS
        for row in (
            (f"μ(R²)_{kind}, varying variables", f"mu(R2 varying)_{kind}", _digits(4)),
            (f"σ(R²)_{kind}, varying variables", f"sigma(R2 varying)_{kind}", _digits(4)),
            (f"variables of {kind} that do not vary", f"constant_{kind}", _decimals(0)),
        )
    ),
    *(
        row
        for kind in ("t", "i")
        for row in (
            (f"cosine_{kind}, matched", f"cosine_{kind}", _decimals(4)),
            (f"cosine_{kind}, mismatched", f"cosine of others_{kind}", _decimals(4)),
            (f"p of no alignment_{kind}", f"p_{kind}", _digits(2)),
        )
    ),
    ("cosine_rt, mean of the 77 rows", "cosine_rt", _decimals(4)),
    *(
        row
        for way, arrow in WAYS.items()
        for row in (
            *((f"recall@{k}, {arrow}", f"R@{k}_{way}", _percent) for k in (1, 5, 10)),
            (f"median rank, {arrow}", f"medR_{way}", _decimals(1)),
        )
    ),
)
PICTURES = (
    ("AIS", "AIS", _whole_percent),
    ("IIS", "IIS", _whole_percent),
    ("AIC", "AIC", _whole_percent),
    ("CLIP score", "CLIP score", _decimals(1)),
    ("pictures", "pictures", _decimals(0)),
)
VERDICTS = tuple(
    (name, name, _whole_percent)
    for name in ("thing", "colour", "background", "side", "named colour", "named background", "named side")
)


def tables(results: Results) -> list[Table]:
    """Those there are figures for, in the order to read them."""
    makers = (_paper, _beside, _denoising, _pictures, _verdicts, _inventory)
    return [table for make in makers if (table := make(results)).rows]


def _paper(results: Results) -> Table:
    entries = results["encoders"] | {"CLIP's text": results["references"].get(CAPTION, {"figures": {}})}
    pooling = {"eos": "its end", "bos": "its start, where all are the same"}[results["settings"]["text_pooling"]]
    note = (
        f"As in Tables 3 and 4 of arXiv 2509.09717, over {results['data']['size']:,} clips at once, text pooled at "
        f"{pooling}. TCEOCS of vectors that say nothing: {results['bounds']['chance']:.4f}; the least that is possible "
        f"without a temperature: {results['bounds']['floor']:.4f}."
    )
    if any("before" in entry for entry in entries.values()):
        note += " Before training → after."
    return Table("The paper's figures", note, ("", *entries), list(_rows(PAPER, entries.values(), False)))


def _beside(results: Results) -> Table:
    entries = results["encoders"] | {"CLIP's text": results["references"].get(CAPTION, {"figures": {}})}
    size = results["data"]["size"]
    note = (
        "The same embeddings, read otherwise; texts are pooled at their end. In brackets: 95 % bootstrap intervals, of "
        f"recalls Wilson's. By chance recall@k is k/{size:,} and the median rank {(size + 1) / 2:,.1f}."
    )
    return Table("Beside them", note, ("", *entries), list(_rows(BESIDE, entries.values(), True)))


def _rows(spec, entries: Iterable[dict], intervals: bool) -> Iterable[Sequence[str]]:
    entries = list(entries)
    for label, key, form in spec:
        if any(key in entry["figures"] for entry in entries):
            yield (label, *(_cell(entry, key, form, intervals) for entry in entries))


def _cell(entry: dict, key: str, form: Callable[[float], str], intervals: bool) -> str:
    if entry["figures"].get(key) is None:
        return ""
    text = _text(entry["figures"][key], form)
    if key in entry.get("before", {}):
        return f"{_text(entry['before'][key], form)} → {text}"
    if intervals and key in entry["intervals"]:
        low, high = (_text(value, form) for value in entry["intervals"][key])
        return f"{text} [{low.removesuffix(' %')}, {high.removesuffix(' %')}]"
    return text


def _text(value: float, form: Callable[[float], str]) -> str:
    if math.isnan(value):
        return "undefined"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return form(value)


def _conditionings(title: str, note: str, spec, results: Results) -> Table:
    entries = results["encoders"] | results["references"]
    spec = [row for row in spec if any(row[1] in entry["figures"] for entry in entries.values())]
    rows = [
        (name, *(_cell(entry, key, form, True) for _, key, form in spec))
        for name, entry in entries.items()
        if any(key in entry["figures"] for _, key, _ in spec)
    ]
    return Table(title, note, ("conditioning", *(label for label, _, _ in spec)), rows)


def _denoising(results: Results) -> Table:
    spec = (
        ("loss", "denoising", _decimals(4)),
        ("less than without a caption by", "denoising gain", _decimals(4)),
    )
    note = (
        "The frozen U-Net's error at predicting the noise in held-out pictures under each conditioning, same noise for "
        "all: one that gains nothing over no caption says nothing that the U-Net understands."
    )
    return _conditionings("Denoising loss", note, spec, results)


def _pictures(results: Results) -> Table:
    note = (
        "Of pictures made under each conditioning: how often they are nearer to their own sound (AIS) and true picture "
        "(IIS) than to another's, by chance 50 %; how often CLIP picks the right class (AIC); CLIP's cosine with the "
        "caption times 100."
    )
    return _conditionings("Pictures", note, PICTURES, results)


def _verdicts(results: Results) -> Table:
    note = (
        "The share of the same pictures in which an independent classifier sees the right thing, colour, background "
        "and side; what is named is of the pictures whose caption names it."
    )
    return _conditionings("What a classifier sees", note, VERDICTS, results)


def _inventory(results: Results) -> Table:
    counts = {name: entry["table 2"] for name, entry in results["encoders"].items() if "table 2" in entry}
    kinds = list(next(iter(counts.values()), {}))
    rows = []
    for kind in kinds:
        label, form = {
            "parameters": ("parameters, millions", lambda count: f"{count / 1e6:.2f}"),
            "FLOPs": ("GFLOPs a clip", lambda count: f"{count / 1e9:.2f}"),
        }.get(kind, (kind, _decimals(0)))
        rows.append((label, *(form(figures[kind]) for figures in counts.values())))
    note = "Layers as Table 2 of arXiv 2509.09717 counts them; operations as XLA counts those of one clip."
    return Table("Layers", note, ("", *counts), rows)


def show(results: Results):
    """Print the tables."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    for table in tables(results):
        printed = RichTable(title=table.title, title_justify="left", title_style="bold", box=box.SIMPLE)
        for place, head in enumerate(table.head):
            printed.add_column(head, justify="right" if place else "left", overflow="fold")
        for row in table.rows:
            printed.add_row(*row)
        console.print(printed)
        console.print(table.note, style="dim")
        console.print()


def to_markdown(results: Results) -> str:
    """A section to paste: every table under its title, with its note."""
    data = results["data"]
    parts = [f"Data: `{data['folder']}`, {data['size']:,} clips, SHA-256 `{data['identity'][:16]}`.\n"]
    return "\n".join(
        parts + [f"## {table.title}\n\n{table.note}\n\n{table.to_markdown()}" for table in tables(results)]
    )


def to_html(table: Table) -> str:
    def row(cells, tag):
        first, *rest = map(escape, cells)
        return f"<tr><th scope=row>{first}</th>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in rest) + "</tr>"

    body = "\n".join(row(cells, "td") for cells in table.rows)
    return f"<table><thead>{row(table.head, 'th')}</thead><tbody>\n{body}\n</tbody></table>"


def to_csv(results: Results) -> str:
    """One figure a line: whose, which, its value, its interval, and its value before training."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("kind", "name", "figure", "value", "low", "high", "before"))
    for kind in ("encoders", "references"):
        for name, entry in results[kind].items():
            for figure, value in entry["figures"].items():
                low, high = entry["intervals"].get(figure, ("", ""))
                writer.writerow((kind[:-1], name, figure, value, low, high, entry.get("before", {}).get(figure, "")))
    return text.getvalue()
