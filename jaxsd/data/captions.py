"""Captions of the seconds of videos: from a table, from subtitles, chosen by CLIP, or from a command of the user's."""

import hashlib
import math
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxsd.data.layouts.tables import TABLE_SUFFIXES, pick_column, read_table
from jaxsd.data.layouts.vggsound import read_vggsound_table
from jaxsd.data.video import VIDEO_SUFFIXES
from jaxsd.runtime.files import read_json, write_json
from jaxsd.runtime.progress import Progress, counted

SUBTITLES = "subtitles"
TEMPLATES = ("a photo of {}",)


@dataclass(frozen=True)
class CaptionSource:
    """Where captions come from. plan: what identifies it. One of the others is there, or the subtitles are read.

    table: the captions of a video by its stem, each with its start. splits: the split by stem. groups: the group by
    stem. candidates: the captions to choose from, each in every template. command: the words of the user's command.
    """

    plan: dict[str, Any]
    table: dict[str, list[tuple[float, str]]] | None = None
    splits: dict[str, str] | None = None
    groups: dict[str, str] | None = None
    candidates: list[list[str]] | None = None
    command: list[str] | None = None


def caption_source(
    captions: str | None, candidates: Path | None, templates: Sequence[str], command: str | None
) -> CaptionSource:
    """The source that these arguments of `cut_videos` name. Raises ValueError or FileNotFoundError for a wrong one."""
    if captions == SUBTITLES:
        return CaptionSource({"captions": SUBTITLES})
    if captions is not None:
        path = Path(captions)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        plan = {"captions": path.name, "captions_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        return _read_caption_table(path, plan)
    if candidates is not None:
        text = Path(candidates).read_text(encoding="utf-8-sig")
        words = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
        if not words:
            raise ValueError(f"{candidates} holds no candidates; it must have one a line")
        for template in templates:
            if "{}" not in template:
                raise ValueError(f"--template is {template!r}; it must have {{}} where the candidate goes")
        plan = {"candidates": words, "templates": list(templates)}
        return CaptionSource(plan, candidates=[[one.replace("{}", word) for one in templates] for word in words])
    words = shlex.split(command or "")
    if not words:
        raise ValueError("--caption-command is empty")
    if shutil.which(words[0]) is None:
        raise ValueError(f"--caption-command {words[0]} cannot be run: there is no such program")
    return CaptionSource({"command": command}, command=words)


def _read_caption_table(path: Path, plan: dict[str, Any]) -> CaptionSource:
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise ValueError(f"{path} has the suffix {path.suffix!r}; allowed: {', '.join(TABLE_SUFFIXES)}")
    table: dict[str, list[tuple[float, str]]] = {}
    rows = read_table(path)
    if "file" not in rows.column_names and path.suffix.lower() == ".csv":
        try:
            vggsound = read_vggsound_table(path)
        except ValueError as error:
            raise ValueError(f"{error}; and it has no columns file, start and text") from None
        stems = {f"{video}_{start:06d}": (video, label, split) for video, start, label, split in vggsound}
        return CaptionSource(
            plan,
            {stem: [(0.0, label)] for stem, (_, label, _) in stems.items()},
            {stem: split for stem, (*_, split) in stems.items()},
            {stem: video for stem, (video, *_) in stems.items()},
        )
    files = rows[pick_column(rows, ("file",), path, "names of videos")].to_pylist()
    texts = rows[pick_column(rows, ("text", "caption"), path, "captions")].to_pylist()
    starts = rows["start"].to_pylist() if "start" in rows.column_names else [0.0] * len(rows)
    for number, (file, start, text) in enumerate(zip(files, starts, texts, strict=True)):
        try:
            second = float(start) if start not in (None, "") else 0.0
            if not math.isfinite(second):
                raise ValueError
        except ValueError:
            raise ValueError(f"{path}: row {number}: start is {start!r}; it must be a number of seconds") from None
        name = Path(str(file or "")).name
        stem = Path(name).stem if Path(name).suffix.lower() in VIDEO_SUFFIXES else name
        if stem:
            table.setdefault(stem, []).append((second, str(text or "").strip()))
    return CaptionSource(plan, {stem: sorted(cues, key=lambda cue: cue[0]) for stem, cues in table.items()})


def caption_all(
    records: Mapping[Path, dict], names: Mapping[Path, str], out: Path, source: CaptionSource, clip: str | None
) -> list[dict[str, Any]]:
    """The rows of the manifest: the clips that have a caption, scored where a CLIP is named."""
    (out / "captions").mkdir(exist_ok=True)
    towers: Any = None
    embedded = None
    rows = []
    with Progress("captions", len(records), unit="video") as progress:
        for done, (path, record) in enumerate(records.items(), start=1):
            kept = out / "captions" / f"{names[path]}.json"
            if not kept.is_file():
                images = [out / row["image"] for row in record["rows"]]
                if clip and towers is None:
                    towers = _load_clip_towers(clip)
                    if source.candidates:
                        embedded = _embed_candidates(towers, source.candidates)
                write_json(kept, _caption_video(path, record, images, source, towers, embedded))
            made = read_json(kept)
            for index, (row, text) in enumerate(zip(record["rows"], made["texts"], strict=True)):
                if text:
                    rows.append(
                        {"audio": row["audio"], "image": row["image"], "text": text}
                        | {"group": (source.groups or {}).get(path.stem, names[path])}
                        | ({"split": source.splits[path.stem]} if source.splits else {})
                        | {"video": path.name, "second": f"{row['start']:g}"}
                        | ({"score": made["scores"][index]} if clip else {"score": 0.0})
                    )
            progress.advance(done)
    return rows


def _load_clip_towers(clip: str) -> Any:
    from jaxsd.clip.pipeline import CLIP
    from jaxsd.data.features import FeatureTowers
    from jaxsd.runtime.bundled import clip_source  # these import JAX, which the workers do not need

    return FeatureTowers(CLIP.from_pretrained(clip_source(clip), dtype=np.float32))


def _embed_candidates(towers: Any, candidates: list[list[str]]) -> np.ndarray:
    """Unit-norm embeddings (candidates, projection): the mean over the templates."""
    flat = towers.embed_text([text for texts in candidates for text in texts])
    means = flat.reshape(len(candidates), -1, flat.shape[1]).mean(axis=1)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def _caption_video(
    path: Path, record: dict, images: list[Path], source: CaptionSource, towers: Any, candidates: np.ndarray | None
) -> dict[str, Any]:
    """The captions of a video's clips, "" where there is none, and the cosines of CLIP's embeddings."""
    seen = None
    if towers is not None:
        seen = towers.embed_images([Image.open(image) for image in images])
    if source.candidates is not None:
        assert seen is not None and candidates is not None
        texts = [source.candidates[index][0] for index in (seen @ candidates.T).argmax(axis=1)]
    elif source.command is not None:
        texts = _run_command(source.command, images)
    elif source.table is not None:
        cues = source.table.get(path.stem, [])
        texts = [next((text for begin, text in reversed(cues) if begin <= row["start"]), "") for row in record["rows"]]
    else:
        texts = [row["subtitle"] for row in record["rows"]]
    scores = None
    if towers is not None and seen is not None:
        cosines = np.einsum("ij,ij->i", seen, towers.embed_text([text or "-" for text in texts]))
        scores = [round(float(cosine), 4) for cosine in cosines]
    return {"texts": texts, "scores": scores}


def _run_command(command: list[str], images: list[Path]) -> list[str]:
    paths = "".join(f"{image.resolve()}\n" for image in images)
    try:
        done = subprocess.run(command, input=paths, capture_output=True, text=True)
    except OSError as error:
        raise ValueError(f"--caption-command {command[0]} cannot be run: {error.strerror}") from None
    lines = [line.strip() for line in done.stdout.splitlines()]
    if done.returncode or len(lines) != len(images):
        said = done.stderr.strip().splitlines()[-1:] or ["it says nothing on stderr"]
        raise ValueError(
            f"--caption-command {shlex.join(command)} ended with status {done.returncode} and "
            f"{counted(len(lines), 'line')} for {counted(len(images), 'image')}, where "
            f"status 0 and a line each are needed ({said[0]})"
        )
    return lines
