"""Near-duplicates across the splits of a data set: how many held-out examples have a twin in training."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, Int16

from jaxsd.runtime.progress import Progress, counted

# From these cosines on, two examples are twins: of CLIP's image embeddings, and of the fingerprints of sounds.
SAME_IMAGE, SAME_AUDIO = 0.98, 0.98
COMPARED = 2_048  # examples of training at a time
FRAME_SAMPLES, FRAME_STEP, LEVEL_BANDS = 512, 320, 32  # samples, samples and frequency bands of a fingerprint


def fingerprint(audio: Int16[np.ndarray, "n samples"]) -> Float32[np.ndarray, "n features"]:
    """The energy of 32 bands in 49 moments in dB, less its mean and of norm 1; 0 of silence."""
    x = np.asarray(audio, np.float32) / 2**15
    frames = np.lib.stride_tricks.sliding_window_view(x, FRAME_SAMPLES, axis=1)[:, ::FRAME_STEP] * np.hanning(
        FRAME_SAMPLES
    ).astype(np.float32)
    energy = np.abs(np.fft.rfft(frames, axis=2)[..., 1:]) ** 2
    # Bands that are wider the higher they are, as those of hearing.
    edges = np.unique(np.round(np.geomspace(1, FRAME_SAMPLES // 2, LEVEL_BANDS + 1)).astype(int) - 1)
    levels = 10 * np.log10(np.add.reduceat(energy, edges[:-1], axis=2) + 1e-6).reshape(len(x), -1)
    levels -= levels.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(levels, axis=1, keepdims=True)
    return np.divide(levels, norms, out=np.zeros_like(levels), where=norms > 1e-3).astype(np.float32)


def find_twins(held_out: Mapping[str, np.ndarray], train: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Which examples of a split have a twin in training, bool (n,): by their image, by their audio.

    Args:
        held_out, train: the columns of the splits.
        name: of the split, for the progress bar.
    """
    images = np.asarray(held_out["image"], np.float32)
    sounds = np.concatenate(
        [fingerprint(held_out["audio"][first : first + COMPARED]) for first in range(0, len(images), COMPARED)]
    )
    found = {"image": np.zeros(len(images), bool), "audio": np.zeros(len(images), bool)}
    with Progress(f"twins of {name}", len(train["image"]), unit="example") as progress:
        for first in range(0, len(train["image"]), COMPARED):
            part = slice(first, first + COMPARED)
            others, audio = np.asarray(train["image"][part], np.float32), fingerprint(train["audio"][part])
            for begin in range(0, len(images), COMPARED):
                rows = slice(begin, begin + COMPARED)
                found["image"][rows] |= (images[rows] @ others.T >= SAME_IMAGE).any(axis=1)
                found["audio"][rows] |= (sounds[rows] @ audio.T >= SAME_AUDIO).any(axis=1)
            progress.advance(first + len(others))
    return found


def describe_twins(found: Mapping[str, np.ndarray], name: str) -> str:
    """How many of a split's examples have a twin in training, in two lines of a terminal."""
    either = found["image"] | found["audio"]
    return (
        f"{name}: {int(either.sum()):,} of {counted(len(either), 'example')} ({either.mean():.1%}) have a twin in "
        "train,\n"
        f"  {int(found['image'].sum()):,} by the image (a cosine from {SAME_IMAGE:g}), "
        f"{int(found['audio'].sum()):,} by the sound (from {SAME_AUDIO:g})"
    )
