"""Prepares many small files, some broken in every known way, killing the command on its way, and checks what it leaves.

python -m tests.helpers.data_acceptance --rows 10000 --kills 2
"""

import argparse
import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from jaxsd.clip.pipeline import CLIP
from jaxsd.clip.tokens import tokenize
from jaxsd.data.columns import open_columns
from jaxsd.runtime.bundled import clip_source
from tests.helpers.data_files import caption, picture, sound, write_files

BATCH = 100
SPLIT = ("--validation", "0.1", "--test", "0.1")


def start(manifest: Path, out: Path, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "jaxsd.data", "prepare", str(manifest), "--out", str(out), "--clip", "toy"]
    return subprocess.Popen([*command, *SPLIT, *flags], stderr=subprocess.PIPE, text=True)


def records(out: Path) -> int:
    """The chunks that are done."""
    return len(list(out.glob("*/records/[0-9]*.json")))


def kill_after(process: subprocess.Popen, out: Path, chunks: int):
    """Kill -9 as soon as so many chunks are done."""
    while records(out) < chunks:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def verify(out: Path, rows: int, expected: dict[int, tuple[str, str]]) -> dict[str, int]:
    """Check that every good row is there once with the right content and every bad one is listed; rows a split."""
    splits = {name: open_columns(out / name) for name in ("train", "validation", "test")}
    there = np.concatenate([split["row"] for split in splits.values()])
    good = np.setdiff1d(np.arange(rows), list(expected))
    assert np.array_equal(np.sort(there), good), "good rows are missing, or there twice"

    group = {name: set(split["row"] // 3) for name, split in splits.items()}  # as write_files names the videos
    assert (
        not group["train"] & group["validation"] | group["train"] & group["test"] | group["validation"] & group["test"]
    )

    with (out / "skipped.csv").open(newline="") as file:
        skipped = list(csv.DictReader(file))
    assert [int(row["row"]) for row in skipped] == sorted(expected)
    for row in skipped:
        name, reason = expected[int(row["row"])]
        assert row["file"] == name and reason in row["reason"], row

    clip = CLIP.from_pretrained(clip_source("toy"))
    for split in splits.values():
        for first in range(0, len(split["row"]), BATCH):
            part = slice(first, first + BATCH)
            numbers = split["row"][part].tolist()
            texts = [caption(row) for row in numbers]
            np.testing.assert_array_equal(split["audio"][part], [sound(row) for row in numbers])
            np.testing.assert_array_equal(split["tokens"][part], tokenize(clip.tokenizer, texts))
            images = [Image.fromarray(picture(row)) for row in numbers]
            # As many of them each time, so that this compiles once.
            short = BATCH - len(numbers)
            for column, wanted in (
                ("text", clip.embed_text([*texts, *[""] * short])),
                ("image", clip.embed_images([*images, *images[:1] * short])),
            ):
                np.testing.assert_allclose(split[column][part], np.asarray(wanted)[: len(numbers)], atol=1e-3)
    return {name: len(split["row"]) for name, split in splits.items()}


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.helpers.data_acceptance", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--broken", type=float, default=0.03, help="share of rows that is broken")
    parser.add_argument("--kills", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        manifest, expected = write_files(Path(folder) / "source", arguments.rows, arguments.broken)
        print(f"wrote {arguments.rows} rows, {len(expected)} of them broken, in {time.monotonic() - began:.0f} s")
        out = Path(folder) / "out"
        chunks = arguments.rows // 256
        for kill in range(arguments.kills):
            process = start(manifest, out)
            kill_after(process, out, max(records(out) + 1, chunks * (kill + 1) // (arguments.kills + 1)))
            print(f"killed after {records(out)} of about {chunks} chunks: {process.communicate()[1].strip()}")
        process = start(manifest, out)
        errors = process.communicate()[1]
        assert process.returncode == 0, errors
        print(f"finished: {errors.strip()}")
        process = start(manifest, out)
        process.communicate()
        assert process.returncode == 0
        rows = verify(out, arguments.rows, expected)
        print(
            f"every good row is there once with its own content, every bad one listed with its reason: {rows}, "
            f"{len(expected)} skipped"
        )


if __name__ == "__main__":
    main()
