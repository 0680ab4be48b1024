"""The page of a study: choose a sound, an image, a conditioning and a mode; the grid of every input; the scores."""

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from jaxsd.audio import write_wav
from jaxsd.diffusion.images import prepare_image
from jaxsd.diffusion.pipeline import to_pil
from jaxsd.evaluation.report.tables import to_html
from jaxsd.runtime.files import replacing
from jaxsd.runtime.progress import counted
from jaxsd.study.draw import Study
from jaxsd.study.plan import RANDOM_EMBEDDINGS, TEXT_ALONE
from jaxsd.study.scores import Shown, score_tables

PAGE = "index.html"
ESCAPED = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}  # so that no text ends the script that holds the data


def write_study_page(study: Study, shown: Sequence[Shown]) -> Path:
    """Write index.html, the sounds as they were heard and the images that were started from; the path of the page."""
    _write_inputs(study)
    tables = score_tables(study.inputs, [*study.conditionings, TEXT_ALONE, RANDOM_EMBEDDINGS], shown)
    sections = [
        f"<section><h2>{escape(table.title)}</h2>\n<p>{escape(table.note)}</p>\n"
        f'<div class="wide">{to_html(table)}</div></section>'
        for table in tables
    ]
    if not sections:
        sections = ["<section><h2>Scores</h2>\n<p>None: no CLIP was named (<code>--clip</code>).</p></section>"]
    data = json.dumps(_page_data(study, shown), separators=(",", ":"))
    for character, code in ESCAPED.items():
        data = data.replace(character, code)
    template = files("jaxsd.study").joinpath("page.html").read_text(encoding="utf-8")
    missing = len(study.images()) - len({one.image for one in shown})
    values = {
        "about": escape(_about(study, missing)),
        "tables": "\n".join(sections),
        "data": data,
    }
    for name, value in values.items():
        template = template.replace(f"{{{{{name}}}}}", value)
    path = study.folder / PAGE
    with replacing(path) as part:
        part.write_text(template, encoding="utf-8")
    return path


def _about(study: Study, missing: int) -> str:
    inputs, names = study.inputs, ", ".join(study.model.encoders)
    sounds, images = counted(len(inputs.sounds), "sound"), counted(len(inputs.images), "image")
    parts = []
    for with_image, said in ((False, "without an image"), (True, "with one")):
        if any((image is not None) == with_image for _, image in inputs.pairs):
            sampling = study.sampling_of(with_image)
            parts.append(f"guidance {sampling['guidance']:g}, {sampling['steps']} steps {said}")
    still = f" Still to be drawn: {counted(missing, 'image')}." if missing else ""
    return (
        f"{sounds}, {images} to start from, encoders {names}; "
        f"{'; '.join(parts)}; {study.copies} of each, seed {study.seed}.{still}"
    )


def _page_data(study: Study, shown: Sequence[Shown]) -> dict[str, Any]:
    """What the page's script needs: names, captions and, by sound, image, conditioning and mode, files and scores."""
    inputs = study.inputs
    cells: dict[str, Any] = {}
    for one in shown:
        cell = cells.setdefault(one.sound, {}).setdefault(one.image.image or "", {})
        cell = cell.setdefault(one.image.conditioning, {}).setdefault(one.image.mode, [])
        scores = [None if value is None else round(value, 1) for value in (one.similarity, one.rank)]
        cell.append([one.image.path.as_posix(), *scores, one.seen])
    return {
        "sounds": {name: sound.caption for name, sound in inputs.sounds.items()},
        "images": list(inputs.images),
        "pairs": [[sound, image or ""] for sound, image in inputs.pairs],
        "conditionings": [*study.conditionings, TEXT_ALONE, RANDOM_EMBEDDINGS],
        "cells": cells,
    }


def _write_inputs(study: Study) -> None:
    """Write what the model heard and saw: sounds/NAME.wav and inputs/NAME.png."""
    side = study.model.pipe.unet.config.sample_size * study.model.pipe.vae.config.factor
    height, width = (study.sampling.get(name) or side for name in ("height", "width"))
    for folder in ("sounds", "inputs"):
        (study.folder / folder).mkdir(parents=True, exist_ok=True)
    for name, sound in study.inputs.sounds.items():
        with replacing(study.folder / "sounds" / f"{name}.wav") as part:
            write_wav(part, sound.clip)
    for name, image in study.inputs.images.items():
        with replacing(study.folder / "inputs" / f"{name}.png") as part:
            to_pil(prepare_image(image, height, width))[0].save(part)
