"""An evaluation as one HTML page."""

from html import escape

from jaxsd.evaluation.report.plots import plots
from jaxsd.evaluation.report.tables import tables, to_html
from jaxsd.evaluation.results import Results

HTML_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light; }}
body {{ max-width: 62rem; margin: 3rem auto; padding: 0 1.5rem; color: #222; background: #fff;
  font: 16px/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.6rem; font-weight: 600; }}
h2 {{ font-size: 1.15rem; font-weight: 600; margin: 2.5rem 0 0.3rem; }}
p {{ max-width: 46rem; margin: 0 0 0.8rem; color: #555; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.25rem 0.9rem 0.25rem 0; text-align: right; white-space: nowrap; font-weight: 400; }}
thead th {{ font-weight: 600; border-bottom: 1px solid #bbb; }}
tbody tr {{ border-bottom: 1px solid #eee; }}
th:first-child {{ text-align: left; }}
svg {{ max-width: 100%; height: auto; }}
code {{ font-size: 0.9em; }}
</style>
<h1>{title}</h1>
<p>{about}</p>
{sections}
</html>
"""
HTML_SECTION = '<h2>{title}</h2>\n<p>{note}</p>\n<div class="wide">{body}</div>'


def to_page(results: Results) -> str:
    """A page that needs nothing but itself."""
    data = results["data"]
    parts = [(table.title, table.note, to_html(table)) for table in tables(results)] + list(plots(results))
    sections = [HTML_SECTION.format(title=escape(title), note=escape(note), body=body) for title, note, body in parts]
    return HTML_PAGE.format(
        title=escape("Evaluation of " + ", ".join(results["encoders"])),
        about=f"{data['size']:,} clips of <code>{escape(data['folder'])}</code>, SHA-256 of the data "
        f"<code>{data['identity'][:16]}</code>.",
        sections="\n".join(sections),
    )
