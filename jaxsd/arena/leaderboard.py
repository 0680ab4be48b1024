"""A round of the arena on a page: who is ahead, who was ruled out and why, and how alike the designs are."""

import base64
from collections import Counter
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from flax import nnx

from encoders.contract import count_layers, parameter_count
from jaxsd.arena.round import Contestant, Round
from jaxsd.evaluation.report.page import render_page, render_section
from jaxsd.evaluation.report.tables import SUMMARY, SUMMARY_NOTES, Table, figure_cell, known_figures, to_html
from jaxsd.evaluation.results import Results
from jaxsd.runtime.files import replacing

# What ranks the contestants: the first of these that they have.
RANKED_BY = ("class", "denoising gain", "R@10_a2i", "R@10_a2t")
ALIKE = 0.9  # similarity from which on two designs are called alike
MOST_CHARACTERS = 300  # of why a design was ruled out


@dataclass(frozen=True)
class Architecture:
    """What is compared of an encoder: its layers by type, its number of parameters, and the types of its modules."""

    layers: Counter[str]
    parameters: int
    graph: list[str]

    @classmethod
    def of(cls, encoder: nnx.Module) -> "Architecture":
        graph = [type(module).__name__ for _, module in nnx.iter_modules(encoder)]
        return cls(count_layers(encoder), parameter_count(encoder), graph)

    def similarity(self, other: "Architecture") -> float:
        """From 0 to 1: the mean of how much their layers, sizes and sequences of modules agree.

        Layers: what both have over what either has. Sizes: the smaller over the larger. Modules: twice those that match
        in order over all of both (Ratcliff and Obershelp).
        """
        either = (self.layers | other.layers).total()
        layers = (self.layers & other.layers).total() / either if either else 1.0
        sizes = min(self.parameters, other.parameters) / max(self.parameters, other.parameters, 1)
        modules = SequenceMatcher(None, self.graph, other.graph, autojunk=False).ratio()
        return (layers + sizes + modules) / 3


def leaderboard_tables(round: Round) -> list[Table]:
    """The ranks, those who were ruled out, the layers side by side, and how alike the contestants are."""
    architectures = {name: Architecture.of(encoder) for name, encoder in round.trained.items()}
    ranks = leaderboard(round.contestants, round.results, architectures)
    return [ranks, *ruled_out(round.contestants), layers_side_by_side(architectures), similarities(architectures)]


def write_leaderboard(path: Path, round: Round) -> Path:
    """Write the page, which needs no other file; its path."""
    sections = [render_section(table.title, table.note, to_html(table)) for table in leaderboard_tables(round)]
    if round.sheet:
        image = base64.b64encode(round.sheet.read_bytes()).decode()
        source = f"data:image/png;base64,{image}"
        body = f'<img alt="What each makes of the sample sounds" style="max-width: 100%" src="{source}">'
        sections.insert(1, render_section("Images", "What each makes of the sample sounds, from the same noise.", body))
    about = f"Trained and evaluated alike, over {round.results['data']['size']:,} clips."
    with replacing(path) as part:
        part.write_text(render_page("Arena", about, sections))
    return path


def leaderboard(contestants: list[Contestant], results: Results, architectures: dict[str, Architecture]) -> Table:
    """Who was trained, best first, with intervals; then the averages and the references, which have no rank."""
    entries = results["encoders"]
    figures = [figure for figure in known_figures(entries.values()) if figure.key in SUMMARY]
    ranking = next(key for key in RANKED_BY if any(figure.key == key for figure in figures))
    designs = {one.name: one.design for one in contestants}
    ranked = sorted(architectures, key=lambda name: -entries[name]["figures"][ranking])
    rest = [name for name in entries if name not in architectures]
    rows = []
    for name in [*ranked, *rest, *results["references"]]:
        entry = (results["references"] | entries)[name]
        rank = str(ranked.index(name) + 1) if name in ranked else ""
        size = f"{architectures[name].parameters:,}" if name in architectures else ""
        rows.append((name, rank, *(figure_cell(entry, figure) for figure in figures), size, *_asked(designs.get(name))))
    notes = [
        f"Ranked by {SUMMARY[ranking]}; in brackets: 95 % intervals. Ranks whose intervals overlap are not settled."
    ]
    notes += dict.fromkeys(SUMMARY_NOTES[figure.key] for figure in figures)
    head = ("", "rank", *(SUMMARY[figure.key] for figure in figures), "parameters", "tries", "tokens")
    return Table("Leaderboard", " ".join(notes), head, rows)


def ruled_out(contestants: list[Contestant]) -> list[Table]:
    """Who was not trained, and why; no table where all were."""
    out = [one for one in contestants if one.ruled_out]
    rows = [(one.name, *_asked(one.design), str(one.ruled_out)[:MOST_CHARACTERS]) for one in out]
    return (
        [Table("Ruled out", "What the last try was ruled out for.", ("", "tries", "tokens", "why"), rows)]
        if out
        else []
    )


def layers_side_by_side(architectures: dict[str, Architecture]) -> Table:
    types = sorted({layer for one in architectures.values() for layer in one.layers})
    rows = [(layer, *(str(one.layers[layer] or "") for one in architectures.values())) for layer in types]
    rows.append(("parameters", *(f"{one.parameters:,}" for one in architectures.values())))
    return Table("Architectures", "How often each type of layer occurs.", ("", *architectures), rows)


def similarities(architectures: dict[str, Architecture]) -> Table:
    """The similarity of each two, with a sentence on those that are alike."""
    names = list(architectures)
    pairs = {(a, b): architectures[a].similarity(architectures[b]) for a in names for b in names}
    alike = [f"{a} and {b}" for i, a in enumerate(names) for b in names[i + 1 :] if pairs[a, b] >= ALIKE]
    note = (
        "The mean of the shares of layers, of size and of the sequence of modules that two encoders have in common. "
        f"Alike, at {ALIKE:.0%} and more: {', '.join(alike) or 'none'}."
    )
    rows = [(a, *(f"{pairs[a, b]:.0%}" for b in names)) for a in names]
    return Table("How alike they are", note, ("", *names), rows)


def _asked(design) -> tuple[str, str]:
    """The tries and tokens of a design."""
    if design is None:
        return "", ""
    return str(len(design.answers)), f"{design.tokens:,}" if design.tokens is not None else ""
