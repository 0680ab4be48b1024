"""List the bundled encoders, or check one encoder against the paper's contract and count its layers.

    python -m encoders
    python -m encoders gemini
    python -m encoders my_encoder.py:MyEncoder

The class of a Python file is constructed as Class(rngs=...); a file with one public NNX module class needs no :Class.
Exits with 1 if a clause of the contract fails and with 2 if there is no such encoder.
"""

import argparse
import inspect
import sys
from typing import NoReturn

import jax
from flax import nnx
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from encoders import contract
from encoders.catalog import ENCODERS, find_class
from encoders.layers import abstract
from encoders.registry import create_from_class


class _Parser(argparse.ArgumentParser):
    """A parser that tells mistakes in a sentence."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(argv: list[str] | None = None) -> int:
    parser = _Parser(
        prog=sys.argv[0] if sys.argv[0] == "jaxsd encoders" else "python -m encoders",
        description="List the bundled audio encoders, or check one encoder against the paper's contract.",
    )
    parser.add_argument(
        "encoder",
        nargs="?",
        metavar="NAME|FILE.py[:Class]",
        help=f"{', '.join(ENCODERS)}, or a class in a Python file, which is run; without it, the bundled are listed",
    )
    name = parser.parse_args(argv).encoder
    console = Console()
    if name is None:
        console.print(bundled_table())
        return 0
    try:
        cls = find_class(name)
    except ValueError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return int(not check_and_count(cls, console))


def check_and_count(cls: type[nnx.Module], console: Console) -> bool:
    """Print the clauses of the contract and, if all are kept, the counts of layers. Returns whether all are kept."""

    def build() -> nnx.Module:
        return create_from_class(cls, rngs=nnx.Rngs(0))

    kept = True
    # Lower precisions round differently from one batch size to the next.
    with jax.default_matmul_precision("highest"):
        for clause, problem in contract.check_contract(build):
            kept &= problem is None
            mark = "[red]FAILS[/]" if problem else "[green]ok[/]   "
            console.print(f"{mark} {clause}" + (f": {escape(problem)}" if problem else ""))
    if kept:
        encoder = build()
        size = f"{contract.parameter_count(encoder):,} parameters"
        console.print(f"\n{size}, {contract.flops_per_clip(encoder) / 1e9:.2f} GFLOPs a clip\n")
        console.print(layer_table(cls.__name__, encoder))
    return kept


def bundled_table() -> Table:
    """The bundled encoders at their default sizes."""
    table = Table(box=box.SIMPLE)
    table.add_column("name")
    table.add_column("parameters", justify="right")
    table.add_column("")
    for name, cls in ENCODERS.items():
        description = (inspect.getdoc(inspect.getmodule(cls)) or "").partition("\n")[0]
        table.add_row(name, f"{contract.parameter_count(abstract(cls)):,}", escape(description))
    return table


def layer_table(name: str, encoder: nnx.Module) -> Table:
    """Layers and parameters of an encoder beside the paper's five."""
    table = Table(box=box.SIMPLE, title="Layers as the paper counts them (arXiv 2509.09717, Table 2)")
    table.add_column("", no_wrap=True)
    table.add_column(escape(name), justify="right", style="bold", overflow="fold", max_width=7)
    for published in contract.PAPER_PARAMETERS:
        table.add_column(f"paper:\n{published}", justify="right")
    counts = contract.count_layers(encoder)
    for layer in dict.fromkeys([*contract.PAPER_LAYERS, *counts]):
        published = contract.PAPER_LAYERS.get(layer, {})
        table.add_row(layer, str(counts[layer]), *(str(published.get(name, "")) for name in contract.PAPER_PARAMETERS))
    millions = (contract.parameter_count(encoder), *contract.PAPER_PARAMETERS.values())
    table.add_row("million parameters", *(f"{count / 1e6:.2f}" for count in millions))
    if not any(getattr(module, "operations", None) for _, module in nnx.iter_modules(encoder)):
        table.caption = "Functions such as jax.nn.gelu, pools and branchings count only where a class lists them."
    return table


if __name__ == "__main__":
    sys.exit(main())
