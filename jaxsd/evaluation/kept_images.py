"""Images and sounds of an evaluation as files, for its report and for people."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from jaxsd.audio import write_wav
from jaxsd.diffusion.pipeline import to_pil
from jaxsd.evaluation.inputs import EvaluationSplit
from jaxsd.runtime.files import replacing

GALLERY_CLIPS = 10  # of the first clips, the sounds are kept for the report's gallery


def keep_images(
    folder: Path, name: str, images: Float[np.ndarray, "n height width 3"], right: Bool[np.ndarray, " n"] | None
) -> dict[str, Any]:
    """Write images in [0, 1] as `folder`/NAME/0000.png and on, and return what an entry of the results says of them.

    `right` says in which images the judge sees the right class.
    """
    target = folder / re.sub(r"\W+", "-", name).strip("-")
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("[0-9]*.png"):
        old.unlink()
    for index, image in enumerate(to_pil(images)):
        with replacing(target / f"{index:04}.png") as part:
            image.save(part)
    return {"folder": str(target), "right": None if right is None else [bool(one) for one in right]}


def keep_sounds(folder: Path, split: EvaluationSplit, count: int) -> dict[str, Any]:
    """Write the first sounds of a split as `folder`/sounds/0000.wav and on, and return the results' "gallery"."""
    target = folder / "sounds"
    target.mkdir(parents=True, exist_ok=True)
    count = min(count, GALLERY_CLIPS)
    for index in range(count):
        with replacing(target / f"{index:04}.wav") as part:
            write_wav(part, split.columns["audio"][index])
    tokens = split.columns["tokens"][:count].tolist()
    captions = [split.clip.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in tokens]
    return {"folder": str(target), "captions": captions}


def map_folders(results: Mapping[str, Any], change) -> dict[str, Any]:
    """The same results, with `change(folder)` in place of every folder of kept files."""

    def changed(kept: Mapping[str, Any]) -> dict[str, Any]:
        return {**kept, "folder": change(kept["folder"])}

    mapped = dict(results)
    if "gallery" in results:
        mapped["gallery"] = changed(results["gallery"])
    for kind in ("encoders", "references"):
        mapped[kind] = {
            name: {**entry, "images": changed(entry["images"])} if "images" in entry else entry
            for name, entry in results[kind].items()
        }
    return mapped
