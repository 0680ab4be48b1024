"""An evaluation as one HTML page."""

from collections.abc import Sequence
from html import escape

from jaxsd.evaluation.report.gallery import gallery
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
body {{ max-width: 100rem; margin: 2.5rem auto; padding: 0 2rem; color: #222; background: #fff;
  font: 16px/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.6rem; font-weight: 600; }}
h2 {{ font-size: 1.15rem; font-weight: 600; margin: 2.5rem 0 0.3rem; }}
p {{ max-width: 52rem; margin: 0 0 0.8rem; color: #555; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.25rem 1.2rem 0.25rem 0; text-align: right; font-weight: 400; }}
td {{ white-space: nowrap; }}
thead th {{ font-weight: 600; border-bottom: 1px solid #bbb; vertical-align: bottom; max-width: 12rem; }}
tbody tr {{ border-bottom: 1px solid #eee; }}
th:first-child {{ text-align: left; }}
[title] {{ cursor: help; }}
svg {{ max-width: 100%; height: auto; }}
code {{ font-size: 0.9em; }}
.plots {{ display: flex; flex-wrap: wrap; gap: 0 4rem; }}
.plots > div {{ flex: 1 1 34rem; max-width: 48rem; }}
.gallery th, .gallery td {{ text-align: center; padding: 0.4rem 0.8rem 0.4rem 0; vertical-align: top; }}
.gallery thead th {{ min-width: 6rem; }}
.gallery th:first-child {{ text-align: left; min-width: 16.5rem; }}
.gallery td img {{ width: var(--side); aspect-ratio: 1; object-fit: contain; image-rendering: pixelated;
  --side: clamp(6rem, (min(100vw, 100rem) - 22rem) / var(--images) - 1rem, 10rem); }}
.gallery td div {{ line-height: 1; font-weight: 600; }}
.gallery .right {{ color: #2e7d32; }}
.gallery .wrong {{ color: #c62828; }}
.gallery .wrong img {{ outline: 2px solid #c62828; }}
.gallery audio {{ display: block; width: 16rem; height: 2rem; }}
.gallery .spectrogram {{ display: block; }}
@media (max-width: 40rem) {{  /* a telephone: the images of a sound stand below it, each with its name */
  body {{ padding: 0 1rem; }}
  .wide th, .wide td {{ padding-right: 0.5rem; }}
  .wide table:not(.gallery) {{ font-size: 0.75rem; }}
  .wide table:not(.gallery) th:first-child {{ position: sticky; left: 0; background: #fff; }}
  .gallery thead {{ display: none; }}
  .gallery tr {{ display: flex; flex-wrap: wrap; gap: 0 0.5rem; padding: 0.6rem 0; }}
  .gallery th:first-child {{ flex: 1 0 100%; }}
  .gallery td img {{ --side: 6rem; }}
  .gallery td {{ width: 6.5rem; white-space: normal; padding-right: 0; }}
  .gallery td::before {{ content: attr(data-label); display: block; font-size: 0.75rem; color: #222; }}
}}
</style>
<h1>{title}</h1>
<p>{about}</p>
{sections}
<div class="plots">
{plots}
</div>
</html>
"""
HTML_SECTION = '<h2>{title}</h2>\n<p>{note}</p>\n<div class="wide">{body}</div>'
GALLERY_NOTE = (
    "The first sounds, and the images drawn of them under every conditioning. ✓: the judge sees the class that was "
    "heard, ✗: it sees another one."
)


def to_page(results: Results) -> str:
    """A page that needs nothing but itself: the summary, a gallery where images are kept, all tables and plots."""
    data = results["data"]
    shown = [(table.title, table.note, to_html(table)) for table in tables(results)]
    if images := gallery(results):
        shown.insert(1, ("Gallery", GALLERY_NOTE, images))
    return render_page(
        "Evaluation of " + ", ".join(results["encoders"]),
        f"{data['size']:,} clips of <code>{escape(data['folder'])}</code>, SHA-256 of the data "
        f"<code>{data['identity'][:16]}</code>.",
        [render_section(*part) for part in shown],
        "\n".join(f"<div>{render_section(*plot)}</div>" for plot in plots(results)),
    )


def render_page(title: str, about: str, sections: Sequence[str], plots: str = "") -> str:
    """A page of sections of HTML. `about` is HTML, `title` is text."""
    return HTML_PAGE.format(title=escape(title), about=about, sections="\n".join(sections), plots=plots)


def render_section(title: str, note: str, body: str) -> str:
    """A section of a page. `body` is HTML, `title` and `note` are texts."""
    return HTML_SECTION.format(title=escape(title), note=escape(note), body=body)
