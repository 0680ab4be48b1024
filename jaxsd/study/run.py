"""`generate.py --study`: draws what is missing of a study, scores what is there and writes the page."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxsd.clip.pipeline import CLIP
from jaxsd.runtime.bundled import clip_source, load_maker
from jaxsd.runtime.files import lock_folder
from jaxsd.runtime.progress import counted
from jaxsd.study.draw import Study, check_or_write_study, draw_missing, estimate_seconds
from jaxsd.study.page import write_study_page
from jaxsd.study.plan import StudyImage
from jaxsd.study.scores import SCORED_TOGETHER, score_study


def run_study(
    study: Study,
    *,
    clip: str | None = None,
    judge: str | None = None,
    limit: int | None = None,
    shard: tuple[int, int] = (1, 1),
    dry_run: bool = False,
    began: float | None = None,
) -> Path | None:
    """Draw what is not there yet of this shard's part, and write the page of all that is there.

    Args:
        study: what to draw, and where.
        clip: the CLIP that scores the images, "toy", a folder or a repository; None leaves the scores out.
        judge: the maker of data (`jaxsd.runtime.bundled.MAKERS`) whose judge names what an image shows; None is
            without one.
        limit: how many images to draw at most: the first of the study.
        shard: this process's part of the work, and how many parts there are.
        dry_run: only say how many images there are to draw, and how long that takes.
        began: when the command began (`time.monotonic`), for the dry run: loading counts too.

    Returns:
        The path of the page; None of a dry run.

    Raises:
        ValueError, FileNotFoundError: the folder holds another study, another process draws the same shard, or a model
            cannot be loaded.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"--limit is {limit}; allowed: 1 or more")
    check_or_write_study(study, write=not dry_run)
    all_images = study.images()[:limit]
    mine = all_images[shard[0] - 1 :: shard[1]]
    left = [image for image in mine if not study.is_drawn(image)]
    print(f"{counted(len(mine), 'image')}, {len(left):,} of them to draw", file=sys.stderr, flush=True)
    scorer = CLIP.from_pretrained(clip_source(clip)) if clip else None
    if dry_run:
        loaded = time.monotonic() - began if began else 0.0
        seconds = loaded + estimate_seconds(study, left) + _scoring_seconds(study, left, scorer)
        print(f"about {_duration(seconds)} on this machine as it is now: batches of {study.batch} were timed")
        return None
    draw_missing(study, left, shard)
    with lock_folder(study.folder, wait=True):
        see = load_maker(judge).see_classes if judge else None
        shown = score_study(study.folder, study.inputs, study.images(), scorer, see)
        return write_study_page(study, shown)


def _scoring_seconds(study: Study, images: Sequence[StudyImage], clip: CLIP | None) -> float:
    """How long CLIP takes for these images: its program is compiled once, and then run."""
    if not clip or not images:
        return 0.0
    blank: list[Any] = [Image.fromarray(np.zeros((64, 64, 3), np.uint8))] * SCORED_TOGETHER
    times = []
    for _ in range(3):
        begin = time.monotonic()
        np.asarray(clip.embed_images(blank))
        times.append(time.monotonic() - begin)
    return times[0] + times[-1] * (len(images) / SCORED_TOGETHER)


def _duration(seconds: float) -> str:
    """A length of time in words, rounded to what an estimate can say."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 90 else f"{minutes / 60:.1f} hours"
