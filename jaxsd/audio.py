"""Any sound file -> one second of 16 kHz mono 16-bit PCM, as the audio encoders take it."""

import math
from os import PathLike
from pathlib import Path

import numpy as np
import soundfile
import soxr
from jaxtyping import Float, Int16

RATE = 16_000  # Hz
LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000  # Hz; a rate beyond these is a broken header, not a recording
HOPS_PER_SECOND = 100
SUPPORTED = "a file in WAV, FLAC, OGG, MP3 or another format of libsndfile"


class AudioError(ValueError):
    """A sound file that cannot become a clip; the message is one sentence naming the file."""


def load_clip(path: str | PathLike[str], start: float | None = None) -> Int16[np.ndarray, "16000"]:
    """One second of a sound file as 16 kHz mono int16, with the channels averaged.

    Any sample rate from 1 to 768 kHz, sample format, number of channels and length that libsndfile reads. The second
    begins at `start` seconds; by default it is the loudest one, to 10 ms (the first of equals). Where the file ends
    before the second does, zeros follow. Values beyond full scale are clipped.

    Raises AudioError if the file is missing, empty or cannot be decoded, has samples that are not finite, or ends
    before `start`.
    """
    path = Path(path)
    if not path.exists():
        raise AudioError(f"{path} does not exist; give {SUPPORTED}")
    if not path.is_file():
        raise AudioError(f"{path} is not a file; give {SUPPORTED}")
    if path.stat().st_size == 0:
        raise AudioError(f"{path} is empty; give {SUPPORTED}")
    try:
        with soundfile.SoundFile(path) as file:
            _check(file, path)
            begin = _loudest(file, path) if start is None else _offset(file, path, start)
            samples = _second(file, path, begin)
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a headerless .raw file
        reason = str(getattr(error, "error_string", error)).rstrip(".")
        raise AudioError(f"{path} cannot be read as sound ({reason}); give {SUPPORTED}") from error
    # soundfile divides 16-bit samples by 32768, so that this gives them back unchanged.
    return np.clip(np.round(samples * 32768.0), -32768, 32767).astype(np.int16)


def _check(file: soundfile.SoundFile, path: Path) -> None:
    if file.frames <= 0:
        raise AudioError(f"{path} holds no samples; give a file with some sound in it")
    if not LOWEST_RATE <= file.samplerate <= HIGHEST_RATE:
        raise AudioError(f"{path} has a rate of {file.samplerate} Hz; it must be from {LOWEST_RATE} to {HIGHEST_RATE}")


def _offset(file: soundfile.SoundFile, path: Path, start: float) -> int:
    """The frame at `start` seconds."""
    duration = file.frames / file.samplerate
    if not (math.isfinite(start) and 0 <= round(start * file.samplerate) < file.frames):
        raise AudioError(f"{path} lasts {duration:.3f} s; start must be from 0 to less than that, not {start}")
    return round(start * file.samplerate)


def _loudest(file: soundfile.SoundFile, path: Path) -> int:
    """The first frame of the loudest second, reading the file a second at a time."""
    if file.frames <= file.samplerate:
        return 0
    hop = round(file.samplerate / HOPS_PER_SECOND)
    energies, frames = [], 0
    for block in file.blocks(hop * HOPS_PER_SECOND, dtype="float32", always_2d=True):
        mono = _mono(block, path)
        frames += len(mono)
        hops = np.append(mono, np.zeros(-len(mono) % hop)).reshape(-1, hop)
        energies.append((hops**2).sum(axis=1))
    total = np.append(0.0, np.cumsum(np.concatenate(energies))) if energies else np.zeros(1)
    starts = np.arange(max(0, frames - file.samplerate) // hop + 1)
    loudness = total[np.minimum(starts + HOPS_PER_SECOND, len(total) - 1)] - total[starts]
    # A steady sound differs from one second to the next by rounding only: take the first of equals.
    return int(np.argmax(loudness >= loudness.max() * (1 - 1e-9))) * hop


def _second(file: soundfile.SoundFile, path: Path, begin: int) -> Float[np.ndarray, "16000"]:
    """One second from frame `begin` at 16 kHz, resampled together with its neighbouring seconds, so without edges."""
    rate = file.samplerate
    around = np.zeros(3 * rate)
    first = max(0, begin - rate)
    file.seek(first)
    mono = _mono(file.read(begin + 2 * rate - first, dtype="float32", always_2d=True), path)
    at = first - (begin - rate)
    if at + len(mono) <= rate:
        raise AudioError(f"{path} is damaged: no samples can be read {begin / rate:.3f} s after its start")
    around[at : at + len(mono)] = mono
    if rate != RATE:
        around = soxr.resample(around, rate, RATE)
    return around[RATE : 2 * RATE]


def _mono(block: Float[np.ndarray, "frames channels"], path: Path) -> Float[np.ndarray, " frames"]:
    mono = block.mean(axis=1, dtype=np.float64)
    if not np.isfinite(mono).all():
        raise AudioError(f"{path} has samples that are NaN or infinite; every sample must be finite")
    return mono
