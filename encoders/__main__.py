"""Check an encoder against the paper's contract and count its layers.

    python -m encoders gemini
    python -m encoders my_encoder.py

A Python file must hold exactly one NNX module class without a leading underscore, constructed as Class(rngs=...).
Exits with 1 if a clause of the contract fails and with 2 if there is no such encoder.
"""

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import jax
from flax import nnx
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import encoders
from encoders import contract


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m encoders", description="Check an audio encoder against the paper's contract."
    )
    parser.add_argument("encoder", metavar="NAME|FILE.py", help=f"{', '.join(encoders.ENCODERS)}, or a Python file")
    name = parser.parse_args(argv).encoder
    try:
        build = resolve_encoder(name)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2

    console = Console()
    failed = False
    # Lower precisions round differently from one batch size to the next.
    with jax.default_matmul_precision("highest"):
        for clause, problem in contract.check(build):
            failed |= problem is not None
            mark = "[red]FAILS[/]" if problem else "[green]ok[/]   "
            console.print(f"{mark} {clause}" + (f": {escape(problem)}" if problem else ""))
    if not failed:
        encoder = build()
        size = f"{contract.parameter_count(encoder):,} parameters"
        console.print(f"\n{size}, {contract.flops_per_clip(encoder) / 1e9:.2f} GFLOPs a clip\n")
        console.print(table(name, encoder))
    return int(failed)


def resolve_encoder(name: str) -> Callable[[], nnx.Module]:
    """What constructs the bundled encoder of that name, or the one in a Python file.

    Raises ValueError if there is none.
    """
    if name in encoders.ENCODERS:
        cls = encoders.ENCODERS[name]
    elif name.endswith(".py"):
        cls = _only_class(Path(name))
    else:
        raise ValueError(f"no encoder {name!r}: choose from {', '.join(encoders.ENCODERS)}, or give a Python file")
    return lambda: cls(rngs=nnx.Rngs(0))


def table(name: str, encoder: nnx.Module) -> Table:
    """Layers and parameters of an encoder beside the paper's five."""
    result = Table(box=box.SIMPLE, title="Layers as the paper counts them (arXiv 2509.09717, Table 2)")
    result.add_column("")
    result.add_column(Path(name).stem, justify="right", style="bold")
    for column in encoders.ENCODERS:
        result.add_column(f"paper:\n{column}", justify="right")
    counts = contract.inventory(encoder)
    for kind, published in contract.PAPER.items():
        result.add_row(kind, str(counts[kind]), *(str(published[column]) for column in encoders.ENCODERS))
    millions = (contract.parameter_count(encoder), *(contract.PARAMETERS[column] for column in encoders.ENCODERS))
    result.add_row("million parameters", *(f"{count / 1e6:.2f}" for count in millions))
    if name not in encoders.ENCODERS:
        result.caption = "Functions such as jax.nn.gelu, pools and branchings are not seen in a file's own modules."
    return result


def _only_class(path: Path) -> type[nnx.Module]:
    if not path.is_file():
        raise ValueError(f"no file {path}")
    spec = importlib.util.spec_from_file_location(f"_encoder_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    found = [
        value
        for value in public.values()
        if isinstance(value, type) and issubclass(value, nnx.Module) and value.__module__ == spec.name
    ]
    if len(found) != 1:
        names = ", ".join(cls.__name__ for cls in found) or "none"
        raise ValueError(
            f"{path} must hold exactly one NNX module class without a leading underscore; it holds {names}"
        )
    return found[0]


if __name__ == "__main__":
    sys.exit(main())
