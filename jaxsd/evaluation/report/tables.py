"""The tables of an evaluation, for the terminal, Markdown, HTML and CSV."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape

from rich import box
from rich.table import Table as RichTable

from jaxsd.evaluation.conditionings import OWN_CAPTION
from jaxsd.evaluation.figures import FIGURES, Figure, decimals, verdict_figure
from jaxsd.evaluation.results import Results
from jaxsd.runtime.cli import make_console

CELL_PADDING = 2
# The figures to look at first, and what the summary calls them.
SUMMARY = {
    "R@10_a2t": "recall@10, text",
    "R@10_a2i": "recall@10, image",
    "denoising gain": "denoising gain",
    "class": "right class",
}
RECALL_NOTE = "recall@10: how often a sound's own text or image is among the ten nearest."
SUMMARY_NOTES = {
    "R@10_a2t": RECALL_NOTE,
    "R@10_a2i": RECALL_NOTE,
    "denoising gain": "Denoising gain: what the conditioning tells the frozen U-Net beyond the empty caption; nothing "
    "where it is not above 0.",
    "class": "Right class: the share of images in which the judge sees the class that was heard.",
}


@dataclass(frozen=True)
class Table:
    """A title, a sentence on how to read it, column heads and rows of texts.

    The first column names the rows. definitions: sentences by the row name or column head that they explain.
    """

    title: str
    note: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    definitions: Mapping[str, str] = field(default_factory=dict)

    def to_markdown(self) -> str:
        lines = (self.head, ("---", *["---:"] * (len(self.head) - 1)), *self.rows)
        return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)

    def split_columns(self, width: int) -> list["Table"]:
        """The same table as several, one below the other, each no wider than `width` characters where that can be."""
        widths = [max(len(line[column]) for line in (self.head, *self.rows)) for column in range(len(self.head))]
        groups: list[list[int]] = []
        for column in range(1, len(self.head)):
            group = [*(groups[-1] if groups else []), column]
            if groups and sum(widths[index] + CELL_PADDING for index in (0, *group)) <= width:
                groups[-1] = group
            else:
                groups.append([column])
        return [
            replace(
                self,
                head=[self.head[index] for index in (0, *group)],
                rows=[[row[index] for index in (0, *group)] for row in self.rows],
            )
            for group in groups
        ]


def tables(results: Results) -> list[Table]:
    """The tables that there are figures for, in the order to read them."""
    makers = (_summary, _images, _verdicts, _denoising, _beside, _paper, _layers)
    return [table for make in makers if (table := make(results)).rows]


def _summary(results: Results) -> Table:
    size = results["data"]["size"]
    entries = results["encoders"] | results["references"]
    figures = [figure for figure in known_figures(entries.values()) if figure.key in SUMMARY]
    chance = [_text(figure.chance(size), figure) if figure.chance else "" for figure in figures]
    rows = [
        (name, *(figure_cell(entry, figure, intervals=False) for figure in figures)) for name, entry in entries.items()
    ]
    notes = [f"Over {size:,} clips.", *dict.fromkeys(SUMMARY_NOTES[figure.key] for figure in figures)]
    head = ("", *(SUMMARY[figure.key] for figure in figures))
    definitions = {SUMMARY[figure.key]: figure.definition for figure in figures}
    return Table("Summary", " ".join(notes), head, [*rows, ("chance", *chance)] if rows else [], definitions)


def _images(results: Results) -> Table:
    note = (
        "Of images drawn under each conditioning: how often they are nearer to their own sound (AIS) and true image "
        "(IIS) than to another's, by chance 50 %; how often CLIP picks the right class (AIC); CLIP's cosine with the "
        "caption times 100."
    )
    return _by_conditioning("Images", note, _declared("images"), results)


def _verdicts(results: Results) -> Table:
    entries = (results["encoders"] | results["references"]).values()
    figures = [figure for figure in known_figures(entries) if figure.table == "verdicts" and "=" not in figure.key]
    note = (
        "The share of the same images in which an independent classifier sees what is true; a named color, side or "
        "background counts only the images whose caption names it."
    )
    return _by_conditioning("What a classifier sees", note, figures, results)


def _denoising(results: Results) -> Table:
    note = (
        "The frozen U-Net's error at predicting the noise in held-out images under each conditioning, with the same "
        "noise for all. A conditioning that gains nothing over no caption says nothing that the U-Net understands."
    )
    return _by_conditioning("Denoising loss", note, _declared("denoising"), results)


def _beside(results: Results) -> Table:
    note = (
        "Figures of the same embeddings that the paper leaves out; texts are pooled at their end. In brackets: 95 % "
        "intervals."
    )
    return _by_encoder("Embeddings", note, _declared("beside"), results, intervals=True)


def _paper(results: Results) -> Table:
    end = {"eos": "its end", "bos": "its start, where all are the same"}[results["settings"]["text_pooling"]]
    note = (
        f"As in Tables 3 and 4 of arXiv 2509.09717, over {results['data']['size']:,} clips at once, text pooled at "
        f"{end}. TCEOCS of vectors that say nothing: {results['bounds']['chance']:.4f}; the least that is possible "
        f"without a temperature: {results['bounds']['floor']:.4f}."
    )
    if any("before" in entry for entry in results["encoders"].values()):
        note += " Before training → after."
    return _by_encoder("The paper's figures", note, _declared("paper"), results, intervals=False)


def _layers(results: Results) -> Table:
    counts = {name: entry["table 2"] for name, entry in results["encoders"].items() if "table 2" in entry}
    forms = {
        "parameters": ("parameters, millions", lambda count: f"{count / 1e6:.2f}"),
        "FLOPs": ("GFLOPs a clip", lambda count: f"{count / 1e9:.2f}"),
    }
    rows = []
    for layer in next(iter(counts.values()), {}):
        label, write = forms.get(layer, (layer, decimals(0)))
        rows.append((label, *(write(figures[layer]) for figures in counts.values())))
    note = (
        "Layers as Table 2 of arXiv 2509.09717 counts them; operations of one clip in matrix products and convolutions."
    )
    return Table("Layers", note, ("", *counts), rows)


def _declared(table: str) -> list[Figure]:
    return [figure for figure in FIGURES.values() if figure.table == table]


def known_figures(entries: Iterable[dict]) -> list[Figure]:
    """The figures that entries have, in the order of their declarations; a judge's verdicts come last."""
    keys = dict.fromkeys(key for entry in entries for key in entry["figures"])
    verdicts = [verdict_figure(key) for key in keys if key not in FIGURES]
    return [figure for figure in FIGURES.values() if figure.key in keys] + verdicts


def _by_encoder(title: str, note: str, figures: Sequence[Figure], results: Results, *, intervals: bool) -> Table:
    """A row a figure, a column an encoder; chance stands beside the figures that have one."""
    size = results["data"]["size"]
    entries = results["encoders"] | {"CLIP's text": results["references"].get(OWN_CAPTION, {"figures": {}})}
    rows = [
        (
            figure.label,
            _text(figure.chance(size), figure) if figure.chance else "",
            *(figure_cell(entry, figure, intervals) for entry in entries.values()),
        )
        for figure in figures
        if any(figure.key in entry["figures"] for entry in entries.values())
    ]
    return Table(title, note, ("", "chance", *entries), rows, _definitions(figures))


def _by_conditioning(title: str, note: str, figures: Sequence[Figure], results: Results) -> Table:
    """A row a conditioning, a column a figure."""
    entries = results["encoders"] | results["references"]
    figures = [figure for figure in figures if any(figure.key in entry["figures"] for entry in entries.values())]
    rows = [
        (name, *(figure_cell(entry, figure, intervals=True) for figure in figures))
        for name, entry in entries.items()
        if any(figure.key in entry["figures"] for figure in figures)
    ]
    head = ("conditioning", *(figure.label for figure in figures))
    return Table(title, note, head, rows, _definitions(figures))


def _definitions(figures: Iterable[Figure]) -> dict[str, str]:
    return {figure.label: figure.definition for figure in figures}


def figure_cell(entry: dict, figure: Figure, intervals: bool = True) -> str:
    """The text of an entry's figure, with its interval; "" where the entry lacks it."""
    if entry["figures"].get(figure.key) is None:
        return ""
    text = _text(entry["figures"][figure.key], figure)
    if figure.key in entry.get("before", {}):
        return f"{_text(entry['before'][figure.key], figure)} → {text}"
    if intervals and figure.key in entry["intervals"]:
        low, high = (_text(value, figure) for value in entry["intervals"][figure.key])
        return f"{text} [{low.removesuffix(' %')}, {high.removesuffix(' %')}]"
    return text


def _text(value: float, figure: Figure) -> str:
    if math.isnan(value):
        return "undefined"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return figure.write(value)


def show(results: Results):
    """Print the tables of an evaluation."""
    print_tables(tables(results))


def print_tables(tables: Iterable[Table]):
    """Print tables, no wider than the terminal, or than 80 columns where there is none."""
    console = make_console()
    for table in tables:
        console.print(table.title, style="bold")
        console.print(table.note, style="dim", highlight=False)
        for part in table.split_columns(console.width):
            printed = RichTable(box=box.SIMPLE_HEAD, padding=(0, CELL_PADDING - 1, 0, 0), show_edge=False)
            for index, head in enumerate(part.head):
                printed.add_column(head, justify="right" if index else "left", overflow="fold")
            for row in part.rows:
                printed.add_row(*row)
            console.print(printed, highlight=False)


def to_markdown(results: Results) -> str:
    """A section to paste: every table under its title, with its note."""
    data = results["data"]
    parts = [f"Data: `{data['folder']}`, {data['size']:,} clips, SHA-256 `{data['identity'][:16]}`.\n"]
    return "\n".join(
        parts + [f"## {table.title}\n\n{table.note}\n\n{table.to_markdown()}" for table in tables(results)]
    )


def to_html(table: Table) -> str:
    """A table whose heads and row names show their definitions where the pointer rests on them."""

    def cell(tag: str, text: str, scope: str = "") -> str:
        title = f' title="{escape(table.definitions[text])}"' if text in table.definitions else ""
        return f"<{tag}{scope}{title}>{escape(text)}</{tag}>"

    head = "".join(cell("th", text, " scope=col") for text in table.head)
    rows = [
        f"<tr>{cell('th', first, ' scope=row')}{''.join(cell('td', text) for text in rest)}</tr>"
        for first, *rest in table.rows
    ]
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n" + "\n".join(rows) + "\n</tbody></table>"


def to_csv(results: Results) -> str:
    """One figure a line: whose, which, its value, its interval, and its value before training."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("kind", "name", "figure", "value", "low", "high", "before"))
    for kind in ("encoders", "references"):
        for name, entry in results[kind].items():
            for key in (figure.key for figure in known_figures([entry])):
                low, high = entry["intervals"].get(key, ("", ""))
                before = entry.get("before", {}).get(key, "")
                writer.writerow((kind[:-1], name, key, entry["figures"][key], low, high, before))
    return text.getvalue()
