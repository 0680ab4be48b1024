"""What a split by row does to recall, on videos of the toy world: one scene each, and many seconds of it.

A split by row leaves other seconds of a held-out second's video in training. One encoder is trained on such a split and
evaluated twice: on the seconds that the split holds out, and on seconds of videos that it never saw. Both times the
pool has one second of each video, so that all that differs is whether the video is known.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int16

from encoders import ENCODERS
from jaxsd.audio import RATE
from jaxsd.clip.pipeline import CLIP
from jaxsd.config import load_config, one_of
from jaxsd.data.columns import METADATA, write_columns
from jaxsd.data.features import FeatureTowers
from jaxsd.data.twins import find_twins
from jaxsd.data.workers import Examples
from jaxsd.evaluation.evaluate import evaluate
from jaxsd.evaluation.inputs import load_evaluated_encoders, open_evaluation_split
from jaxsd.evaluation.report.tables import Table
from jaxsd.runtime.bundled import clip_source
from jaxsd.runtime.files import lock_folder, read_json, replacing, write_json
from jaxsd.runtime.progress import counted
from jaxsd.toy import world
from jaxsd.toy.experiments.runs import share_cell, write_table
from jaxsd.training.train import train

SECONDS = 8  # of a video; the last is held out, the one before it is for validation
NOISE_SHARE = 0.1  # of a second: its noise by the recording's level
LOUDER = 3.0  # dB by which a second may be louder or softer
MOVES = 1.0  # 64ths of the image's side that a scene moves from second to second
RECALL_KEYS = {
    "recall@1 a→t": "R@1_a2t",
    "recall@1 a→i": "R@1_a2i",
    "recall@10 a→t": "R@10_a2t",
    "recall@10 a→i": "R@10_a2i",
}
BY_ROW, BY_VIDEO = "by row", "by video"


def compare_splits(
    folder: Path,
    *,
    encoder: str = "gemini",
    seeds: int = 5,
    videos: int = 160,
    steps: int = 300,
) -> Path:
    """Train an encoder on a split by row, several times, and compare its recall on that split and on new videos.

    Args:
        folder: gets the data, the runs and splits.md; what is there is not made again.
        encoder: the name of an encoder.
        seeds: how many times, each with other videos and another start of the encoder.
        videos: how many videos there are in training, and how many new ones.
        steps: of every training.

    Returns:
        The path of splits.md.

    Raises:
        ValueError: an argument is not allowed, or a config cannot be trained.
    """
    one_of("encoder", encoder, ENCODERS)
    for name, value, least in (("seeds", seeds, 1), ("videos", videos, 11), ("steps", steps, 31)):
        if value < least:
            raise ValueError(f"--{name} is {value}; allowed: from {least}")
    found = []
    with lock_folder(folder):
        for seed in range(seeds):
            run = folder / f"{encoder}-{videos}-{steps}-{seed}"
            if not (run / "figures.json").is_file():
                write_json(run / "figures.json", _run_seed(run, encoder, seed, videos, steps))
            found.append(read_json(run / "figures.json"))
            print(f"{seed + 1}/{seeds}  {found[-1]}", flush=True)
        section = folder / "splits.md"
        with replacing(section) as part:
            part.write_text(_describe_splits(found, encoder, videos, steps), encoding="utf-8")
    return section


def _run_seed(run: Path, encoder: str, seed: int, videos: int, steps: int) -> dict[str, dict[str, float]]:
    """The figures of one training, on the split by row and on new videos."""
    _make_videos(run / "data", seed, videos)
    values = {"encoder": encoder, "seed": seed, "steps": steps, "eval_every": steps, "sample_images": 0}
    values |= {"data.folder": run / "data", "encoder_config.width": 128}
    overrides = [f"--config.{key}={value}" for key, value in values.items()]
    train(load_config("own.py:aligned", overrides), run / "encoder")
    encoders = load_evaluated_encoders([str(run / "encoder")])
    splits = {name: open_evaluation_split(run / "data" / part) for name, part in ((BY_ROW, "test"), (BY_VIDEO, "new"))}
    figures = {}
    known = open_evaluation_split(run / "data" / "train").columns
    for name, split in splits.items():
        (entry,) = evaluate(encoders, split, references=())["encoders"].values()
        twins = find_twins(split.columns, known, name)
        figures[name] = {head: float(entry["figures"][key]) for head, key in RECALL_KEYS.items()}
        figures[name] |= {f"twins by the {kind}": float(having.mean()) for kind, having in twins.items()}
    jax.clear_caches()
    return figures


def _make_videos(folder: Path, seed: int, videos: int):
    """Write the splits train, validation and test of the seconds of known videos, and new, of other videos."""
    towers = FeatureTowers(CLIP.from_pretrained(clip_source("toy"), dtype=np.float32))
    numbers = np.arange(2 * videos)
    seconds = {
        "train": [(video, second) for video in numbers[:videos] for second in range(SECONDS - 2)],
        "validation": [(video, SECONDS - 2) for video in numbers[:videos]],
        "test": [(video, SECONDS - 1) for video in numbers[:videos]],
        "new": [(video, SECONDS - 1) for video in numbers[videos:]],
    }
    for name, wanted in seconds.items():
        if (folder / name / METADATA).is_file():
            continue
        columns = _features(towers, [_second(int(video), second, seed) for video, second in wanted])
        metadata = {"source": "toy videos", "split": name, "seed": seed, "clip": "toy", **towers.metadata}
        write_columns(folder / name, columns, metadata)


def _second(video: int, second: int, seed: int) -> world.Example:
    """A second of a video: its scene a little moved, and its sound turned, in noise, a little louder or softer."""
    rng = np.random.default_rng([seed, video, second])
    one = world.example("train", video, seed)
    dx, dy = rng.uniform(-MOVES, MOVES, 2)
    scene = replace(one.scene, dx=one.scene.dx + dx, dy=one.scene.dy + dy, phase=float(rng.random()))
    return one._replace(audio=_vary(one.audio, rng), image=world.images([scene], 1)[0], scene=scene)


def _vary(audio: Int16[np.ndarray, " samples"], rng: np.random.Generator) -> Int16[np.ndarray, " samples"]:
    sound = np.roll(audio, rng.integers(RATE)).astype(np.float64)
    sound += rng.normal(0, NOISE_SHARE * sound.std(), len(sound))
    return np.clip(sound * 10 ** (rng.uniform(-LOUDER, LOUDER) / 20), -(2**15), 2**15 - 1).astype(np.int16)


def _features(towers: FeatureTowers, examples: list[world.Example]) -> dict[str, np.ndarray]:
    audio = np.stack([one.audio for one in examples])
    images = np.stack([one.image for one in examples])
    made = towers(Examples({}, [one.caption for one in examples], images, None, {}))
    return {"audio": audio, **{name: np.asarray(column) for name, column in made.items()}}


def _describe_splits(found: list[Mapping[str, Mapping[str, float]]], encoder: str, videos: int, steps: int) -> str:
    count = len(found) * videos
    rows = []
    for name in found[0][BY_ROW]:
        known, unknown = (float(np.mean([one[split][name] for one in found])) for split in (BY_ROW, BY_VIDEO))
        half = 1.96 * np.sqrt((known * (1 - known) + unknown * (1 - unknown)) / count)
        shares = [share_cell(share, count, "{:.1f}") for share in (known, unknown)]
        rows.append((name, *shares, f"{100 * (known - unknown):+.1f} ± {100 * half:.1f}"))
    note = (
        f"In per cent, over {counted(len(found), 'training')} of {encoder}, {steps:,} steps each, on {videos} videos "
        f"of {SECONDS} seconds. A pool has one second of each of {videos} videos, so that chance is "
        f"{100 / videos:.1f} at 1 and {1000 / videos:.1f} at 10. In brackets: 95 % intervals (Wilson's; the normal "
        f"distribution's of differences) for {count} seconds of sound, not for other trainings. `twins` is the share "
        "of the pool with a twin in training, as `data info` counts them."
    )
    heads = ("", f"split {BY_ROW}", f"split {BY_VIDEO}", "difference")
    return write_table(Table("What a split by row does to recall", note, heads, rows))
