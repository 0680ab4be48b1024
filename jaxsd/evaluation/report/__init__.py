"""Results on the terminal and as files."""

from pathlib import Path

from jaxsd.evaluation.report.gallery import contact_sheet
from jaxsd.evaluation.report.page import to_page
from jaxsd.evaluation.report.tables import print_tables, show, to_csv, to_markdown
from jaxsd.evaluation.results import Results, write_results
from jaxsd.runtime.files import replacing

__all__ = ["contact_sheet", "print_tables", "show", "write_report"]


def write_report(results: Results, folder) -> Path:
    """Write results.json, results.csv, results.md and report.html, each whole or not at all; the report's path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_results(folder / "results.json", results)
    for name, text in (
        ("results.csv", to_csv(results)),
        ("results.md", to_markdown(results)),
        ("report.html", to_page(results)),
    ):
        with replacing(folder / name) as part:
            part.write_text(text)
    return folder / "report.html"
