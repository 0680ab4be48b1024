"""Checks a data set against its source, row by row: python -m tests.helpers.check_rows SOURCE DATA

A row is right if it is there once with the samples of its sound, the token ids of its caption and CLIP's embeddings of
both, or else listed in skipped.csv. Sounds of one second at 16 kHz are read here by soundfile alone.
"""

import argparse
import csv
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile

from jaxsd.audio import RATE, load_clip
from jaxsd.clip.images import load_image, rgb_image
from jaxsd.clip.pipeline import CLIP
from jaxsd.clip.tokens import tokenize
from jaxsd.data.columns import SPLITS, open_columns, read_metadata
from jaxsd.data.features import FeatureTowers
from jaxsd.data.layouts import read_source
from jaxsd.runtime import cli
from jaxsd.runtime.bundled import clip_source

BATCH = 64
NEAREST = 0.9999  # the cosine of an embedding in float16 and the same one made here


def read_samples(path: Path, start: float | None) -> np.ndarray:
    """int16 (16000,)"""
    known = soundfile.info(path) if path.suffix == ".wav" else None
    if known and (known.samplerate, known.frames, known.channels) == (RATE, RATE, 1):
        return soundfile.read(path, dtype="int16")[0]
    return load_clip(path, start).samples


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.helpers.check_rows", description=__doc__)
    parser.add_argument("source")
    parser.add_argument("data", type=Path)
    arguments = parser.parse_args()
    source = read_source(arguments.source)
    splits = [open_columns(arguments.data / name) for name in SPLITS if (arguments.data / name).is_dir()]
    clip = CLIP.from_pretrained(clip_source(read_metadata(arguments.data / "train")["clip"]), dtype=np.float32)
    towers = FeatureTowers(clip)
    there = np.concatenate([split["row"] for split in splits])
    skipped = []
    if (arguments.data / "skipped.csv").is_file():
        with (arguments.data / "skipped.csv").open(newline="") as file:
            skipped = list(csv.DictReader(file))
    listed = [int(row["row"]) for row in skipped]
    assert sorted([*there.tolist(), *listed]) == list(range(len(source))), "rows are missing, or there twice"
    right = 0
    for split in splits:
        for first in range(0, len(split["row"]), BATCH):
            part = slice(first, first + BATCH)
            rows = source.rows(np.asarray(split["row"][part]))
            texts = [row.text for row in rows]
            sounds = [read_samples(source.folder / row.audio, row.start) for row in rows]
            images = [rgb_image(load_image(source.folder / row.image)) for row in rows]
            made = {"text": towers.embed_text(texts), "image": towers.embed_images(images)}
            good = (split["audio"][part] == np.stack(sounds)).all(axis=1)
            good &= (split["tokens"][part] == tokenize(clip.tokenizer, texts)).all(axis=1)
            for name, embeddings in made.items():
                column = np.asarray(split[name][part], np.float32)
                column /= np.linalg.norm(column, axis=1, keepdims=True)  # float16 has it to 1e-4
                good &= np.einsum("ij,ij->i", column, embeddings) >= NEAREST
            right += int(good.sum())
    print(f"{right} of {len(there)} rows right, {len(listed)} listed, of {len(source)}")
    for (kind, reason), count in Counter(
        (Path(row["file"]).suffix, row["reason"].rpartition(": ")[2]) for row in skipped
    ).most_common():
        print(f"{count:6,}  {kind or 'caption'}: {reason}")
    assert right == len(there)


if __name__ == "__main__":
    cli.run(main)
