"""How reading files scales with the workers: python -m benchmarks.decoding [--workers 1 2 4] [--rows 256] [--ray local]

Weak scaling: each worker has as many rows, of ten seconds of 44.1 kHz stereo in FLAC and a JPEG of 640 x 480 pixels,
which are written first. What a row costs in CPU time is measured in this process, so that it holds on busy cores too.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from jaxsd.data.build import WORKER_ITEMS
from jaxsd.data.decode import decode_rows
from jaxsd.data.executors import Executor, LocalExecutor, RayExecutor, Work
from jaxsd.data.manifest import ManifestRow

FILES = 64  # that the rows name in turn
SECONDS, SOUND_RATE, IMAGE_SIZE = 10, 44_100, (640, 480)
CLIP_SIZE = 224  # pixels, of CLIP ViT-L/14


def write_files(folder: Path):
    rng = np.random.default_rng(0)
    at = np.arange(SECONDS * SOUND_RATE) / SOUND_RATE
    for index in range(FILES):
        tone = 0.3 * np.sin(2 * np.pi * (200 + 20 * index) * at) * (1 + np.sin(at))
        noise = rng.normal(0, 0.03, (len(at), 2))
        soundfile.write(folder / f"{index}.flac", np.clip(tone[:, None] / 2 + noise, -1, 1), SOUND_RATE)
        blocks = rng.integers(0, 256, (IMAGE_SIZE[1] // 16, IMAGE_SIZE[0] // 16, 3), np.uint8)
        Image.fromarray(blocks).resize(IMAGE_SIZE, Image.Resampling.BICUBIC).save(folder / f"{index}.jpg", quality=90)


def items_of(part: int) -> list[list[ManifestRow]]:
    numbers = range(part * WORKER_ITEMS, (part + 1) * WORKER_ITEMS)
    return [[ManifestRow(row, f"{row % FILES}.flac", f"{row % FILES}.jpg", "a tone", None, None) for row in numbers]]


def measure(executor: Executor, folder: Path, rows: int) -> tuple[float, float]:
    """Seconds of reading so many rows after the workers have started, and CPU seconds of this process."""
    make = partial(decode_rows, folder=folder, clip_size=CLIP_SIZE, vae_size=None)
    made = executor.run(Work(items_of, make, None), range(1 + rows // WORKER_ITEMS))
    next(made)
    start, used = time.monotonic(), time.process_time()
    for _, examples, _ in made:
        assert not examples.bad, examples.bad
    return time.monotonic() - start, time.process_time() - used


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoding", description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", type=int, default=256, help="of each worker (256)")
    parser.add_argument("--ray", metavar="ADDRESS", help="on the actors of a Ray cluster of so many CPUs each time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write_files(Path(name))
        _, used = measure(LocalExecutor(0), Path(name), arguments.rows)
        print(f"{1000 * used / arguments.rows:.1f} ms of CPU time a row\n", flush=True)
        print("| workers | rows | seconds | rows/s | rows/s of one worker |\n|---|---|---|---|---|", flush=True)
        for workers in arguments.workers:
            rows = workers * arguments.rows
            executor = RayExecutor(arguments.ray, workers) if arguments.ray else LocalExecutor(workers, 2 * workers)
            seconds, _ = measure(executor, Path(name), rows)
            print(f"| {workers} | {rows} | {seconds:.1f} | {rows / seconds:.1f} | {rows / seconds / workers:.1f} |")


if __name__ == "__main__":
    main()
