"""Any sound -> one second of 16 kHz mono 16-bit PCM, as the audio encoders take it.

libsndfile decodes a file where it can. FFmpeg (through PyAV) decodes the rest: AAC and the sound of videos, and files
whose length libsndfile only estimates (MP3), does not know (FLAC that was written to a pipe) or has wrong (FLAC that
was cut off).
"""

import math
import os
import re
import struct
import wave
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import soundfile
import soxr
from jaxtyping import Float, Float32, Int16

from jaxsd.runtime.files import StoredFile, check_not_pointer, naming

RATE = 16_000  # Hz
LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000  # Hz; a rate beyond these is a broken header, not a recording
HOPS_PER_SECOND = 100
BLOCK_HOPS = 5  # of a block around whose mean a second's energy is taken: what is slower than 20 Hz is not heard
SUPPORTED = "a file in WAV, FLAC, OGG, MP3, M4A, MP4 or another format of libsndfile or FFmpeg"
# Channels cancel each other where less than this share of their mean energy is left in their average.
CANCELLED = 1e-3
# Floats have full scale 1. Values a little beyond it are clipped; values this far beyond are integers of another scale.
INTEGER_SCALE = 8
# FFmpeg's formats that hold sound or video. Others (playlists, for one) would have it open further files.
FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dts,eac3,flac,flv,loas,matroska,mov,mp3,mpeg,mpegts,ogg,rm,tta,"
    "w64,wav,wv"
)
OGG_PAGE, OGG_FIRST_PAGE = re.compile(rb"OggS\0(.)", re.DOTALL), 2  # how a page begins; a flag of a stream's first
MOST_CHANNELS = 64  # that FFmpeg converts
PCM, EXTENSIBLE = 1, 0xFFFE  # WAV's format tags
NO_FRAME = 7  # libsndfile's error "File does not exist" where a file is there that mpg123 finds no frame in
UNKNOWN_LENGTH = 2**62  # libsndfile gives the largest number it has

SoundBlock = Float32[np.ndarray, "frames channels"]


class AudioError(ValueError):
    """A sound that cannot become a clip. The message is one sentence that names the file."""


class Clip(NamedTuple):
    """One second of a sound, and where it begins.

    samples: int16 (16000,), 16 kHz mono. start: seconds from the beginning of the sound.
    """

    samples: Int16[np.ndarray, "16000"]
    start: float


@dataclass(frozen=True)
class Sound:
    """A sound that can be read more than once.

    name: for messages. rate: in Hz. read: `read(first)` yields blocks of `block_size` frames from the frame `first` on;
    the last may be shorter. frames: how many there are, where that is known for certain.
    """

    name: str
    rate: int
    read: Callable[[int], Iterator[SoundBlock]]
    frames: int | None = None


def load_clip(path: str | PathLike[str] | StoredFile, start: float | None = None) -> Clip:
    """One second of a sound file as 16 kHz mono int16.

    The file may have any sample rate from 1 to 768 kHz, any sample format, number of channels and length. What can be
    decoded counts, not the length that the header says. Channels are averaged; where they cancel each other (the same
    sound with opposite sign), the loudest channel is taken. Values beyond full scale are clipped. Where the file ends
    before the second does, zeros follow.

    Args:
        path: the file, or one that was read from inside another.
        start: where the second begins, in seconds. By default the loudest second is taken, to 10 ms, the first of
            equals. Loudness is the energy around the means of blocks of 50 ms, so that an offset is not loud, nor
            where it begins.

    Raises:
        AudioError: the file is missing, empty or cannot be decoded, has samples that are not finite, or ends before
            `start`.
    """
    sound = _open_sound(_existing(path))
    try:
        return _take_second(sound, start)
    except soundfile.SoundFileError as error:
        raise _unreadable(path, error) from error


def load_sound(path: str | PathLike[str] | StoredFile, longest: float | None = None) -> Int16[np.ndarray, " samples"]:
    """The whole of a sound file as 16 kHz mono int16, by the rules of `load_clip`.

    Raises AudioError as `load_clip` does, and where more than `longest` seconds can be decoded, which ends there.
    """
    sound = _open_sound(_existing(path))
    _check_rate(sound)
    try:
        mono = _Mono(sound)
        samples = _resample_all(mono, longest)
        return _resample_all(mono.of_loudest_channel(), longest) if mono.cancels() else samples
    except soundfile.SoundFileError as error:
        raise _unreadable(path, error) from error


def open_sound(path: str | PathLike[str] | StoredFile) -> Sound:
    """The sound in a file, undecoded. Raises AudioError where it is missing, empty or none."""
    return _open_sound(_existing(path))


def sound_seconds(sound: Sound) -> float:
    """How long a sound is; it is decoded where only that tells."""
    frames = sum(len(block) for block in sound.read(0)) if sound.frames is None else sound.frames
    return frames / sound.rate


def slide_clips(sound: Sound, hop: float, most: int) -> list[Clip]:
    """The seconds that begin every `hop` seconds and end with the sound at the latest, `most` of them.

    Of a sound shorter than a second, that second alone. The clips are those of `load_clip`, but that a sound of another
    rate is resampled as a whole. Raises AudioError as `load_clip` does.
    """
    _check_rate(sound)
    longest = (most - 1) * hop + 1
    try:
        mono = _Mono(sound)
        samples = _resample_all(mono, longest, cut=True)
        samples = _resample_all(_Mono(sound, channel=0), longest, cut=True) if mono.cancels() else samples
    except soundfile.SoundFileError as error:
        raise _unreadable(sound.name, error) from error
    samples = np.append(samples, np.zeros(max(0, RATE - len(samples)), np.int16))
    starts = [start for number in range(most) if (start := round(number * hop * RATE)) + RATE <= len(samples)]
    return [Clip(samples[start : start + RATE], start / RATE) for start in starts]


def _existing(path: str | PathLike[str] | StoredFile) -> Path | StoredFile:
    """The file, which is there and not empty."""
    file = path if isinstance(path, StoredFile) else Path(path)
    if isinstance(file, Path) and not file.exists():
        raise AudioError(f"{file} does not exist; give {SUPPORTED}")
    if isinstance(file, Path) and not file.is_file():
        raise AudioError(f"{file} is not a file; give {SUPPORTED}")
    if not (file.stat().st_size if isinstance(file, Path) else len(file.data)):
        raise AudioError(f"{file} is empty; give {SUPPORTED}")
    try:
        check_not_pointer(file)
    except ValueError as error:
        raise AudioError(str(error)) from None
    return file


def clip_from_samples(samples: np.ndarray, rate: int | float, start: float | None = None) -> Clip:
    """One second of an array of samples as 16 kHz mono int16, chosen and resampled as `load_clip` does it.

    Args:
        samples: (samples,) or (samples, channels), int16, int32 or floats. Floats have full scale 1: values beyond it
            are clipped, and values beyond 8 are refused, for these are integers as floats.
        rate: samples a second, a whole number.
        start: where the second begins, in seconds; by default the loudest second is taken.

    Raises:
        AudioError: an argument does not fit, a sample is not finite, or the samples end before `start`.
    """
    return _take_second(sound_from_samples(samples, rate), start)


def sound_from_samples(samples: np.ndarray, rate: int | float) -> Sound:
    """An array of samples as a sound; the arguments and errors are those of `clip_from_samples`."""
    name = "the array of samples"
    samples = np.asarray(samples)
    scales = {np.dtype(np.int16): 2**15, np.dtype(np.int32): 2**31}
    if not (samples.dtype in scales or np.issubdtype(samples.dtype, np.floating)):
        raise AudioError(f"{name} is {samples.dtype}; allowed: int16, int32 or floats in [-1, 1]")
    if samples.ndim not in (1, 2) or not samples.size or samples.ndim == 2 and samples.shape[1] > samples.shape[0]:
        raise AudioError(f"{name} has shape {samples.shape}; allowed: (samples,) or (samples, channels)")
    if not math.isfinite(rate) or rate != int(rate):
        raise AudioError(f"{name} has a rate of {rate} Hz; it must be a whole number")
    rate = int(rate)
    scale = scales.get(samples.dtype, 1)
    samples = samples.reshape(len(samples), -1)

    def read(first: int) -> Iterator[SoundBlock]:
        for begin in range(first, len(samples), block_size(rate)):
            yield (samples[begin : begin + block_size(rate)] / np.float64(scale)).astype(np.float32)

    return Sound(name, rate, read, len(samples))


def block_size(rate: int) -> int:
    """The frames of a block: about a second, and a whole number of hops."""
    return _hop(rate) * HOPS_PER_SECOND


def _hop(rate: int) -> int:
    return round(rate / HOPS_PER_SECOND)


def _open_sound(path: Path | StoredFile) -> Sound:
    """The sound in a file, by the decoder that knows how much there is."""
    known = True  # to libsndfile
    try:
        with _open_libsndfile(path) as file:
            if 0 < file.frames < UNKNOWN_LENGTH and _has_true_length(file, path):
                scale = _scale_of(file, path)
                return Sound(str(path), file.samplerate, partial(_read_libsndfile, path, scale), file.frames)
            failure = None if file.frames else AudioError(f"{path} holds no samples; give a file with some sound in it")
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: a headerless .raw file
        failure, known = _unreadable(path, error), False
    try:
        frame = next(_decode_ffmpeg(path), None)
    except AudioError as error:
        raise failure or error from None
    if frame is None:
        no_sound = AudioError(f"{path} cannot be read as sound (it holds none that can be decoded); give {SUPPORTED}")
        raise known and failure or no_sound
    if frame.layout.nb_channels > MOST_CHANNELS:
        raise AudioError(f"{path} has {frame.layout.nb_channels} channels; allowed in its format: {MOST_CHANNELS}")
    return Sound(str(path), frame.sample_rate, partial(_read_ffmpeg, path, frame.sample_rate))


def _open_libsndfile(path: Path | StoredFile) -> soundfile.SoundFile:
    # Bytes, which soundfile takes though its annotations do not say so: a name may be other than UTF-8.
    source: Any = os.fsencode(path) if isinstance(path, Path) else path.open()
    return soundfile.SoundFile(source)


def _has_true_length(file: soundfile.SoundFile, path: Path | StoredFile) -> bool:
    """Whether there are as many frames as libsndfile says, who estimates or takes the header's word in some formats."""
    if file.format == "FLAC":
        return _flac_ends_at(path, file.frames)
    return file.format != "MP3" and not (file.format == "OGG" and _is_chained(path))


def _flac_ends_at(path: Path | StoredFile, frames: int) -> bool:
    """Whether the last packet of a FLAC file ends there; true too where FFmpeg cannot tell."""
    from av.error import FFmpegError

    try:
        with path.open("rb") as file, _open_ffmpeg(file) as container:
            stream = container.streams.audio[0]
            container.seek(frames, stream=stream)  # the time base of FLAC is a frame
            packets = [packet for packet in container.demux(stream) if packet.pts is not None]
    except (FFmpegError, IndexError):
        return True
    return not packets or (packets[-1].pts or 0) + (packets[-1].duration or 0) == frames


def _is_chained(path: Path | StoredFile) -> bool:
    """Whether an Ogg file has more than one stream after the other, of which libsndfile reads the first alone."""
    with path.open("rb") as file:
        tail, begun = b"", False
        while block := file.read(2**20):
            searched = tail + block
            for page in OGG_PAGE.finditer(searched):
                first = page[1][0] & OGG_FIRST_PAGE
                if first and begun:
                    return True
                begun = begun or not first
            tail = searched[-5:]
    return False


def _unreadable(path: str | PathLike[str] | StoredFile, error: Exception) -> AudioError:
    reason = str(getattr(error, "error_string", getattr(error, "strerror", error))).rstrip(".")
    if getattr(error, "code", None) == NO_FRAME:
        reason = "it looks like MP3 and holds no frame of it"
    return AudioError(f"{path} cannot be read as sound ({reason}); give {SUPPORTED}")


def _scale_of(file: soundfile.SoundFile, path: Path | StoredFile) -> int:
    """By what samples are to be multiplied that use fewer bits than they take: of 24 bits in 32, for instance.

    Such samples use the upper bits (Microsoft's WAVEFORMATEXTENSIBLE), but some programs have them in the lower ones,
    where they are as small as sample values with the sign's bits above them. Raises AudioError where libsndfile mixes
    up the bytes.
    """
    bits, taken = _wave_bits(path) if file.format in ("WAV", "WAVEX") else (0, 0)
    if not 0 < bits < taken or not file.subtype.startswith("PCM"):
        return 1
    if file.subtype == "PCM_24" and taken == 32:
        raise AudioError(f"{path} has samples of 24 bits in 4 bytes and calls them 3 bytes; save it as WAV of 24 bits")
    scale, upper = 2 ** (taken - bits), True
    while len(block := file.read(block_size(file.samplerate), dtype="int32")):
        values = block.astype(np.int64) >> (32 - taken)
        if np.abs(values).max() > 2 ** (bits - 1):
            return 1
        upper = upper and not (values % scale).any()
    return 1 if upper else scale


def _wave_bits(path: Path | StoredFile) -> tuple[int, int]:
    """How many bits a sample of a WAV file uses and takes, by its header; 0 and 0 where that is not PCM."""
    with path.open("rb") as file:
        file.seek(12)
        while len(chunk := file.read(8)) == 8 and chunk[:4] not in (b"fmt ", b"data"):
            size = int.from_bytes(chunk[4:], "little")
            file.seek(size + size % 2, os.SEEK_CUR)
        header = file.read(26)
    if chunk[:4] != b"fmt " or len(header) < 16:
        return 0, 0
    tag, channels, _, _, bytes_taken, bits = struct.unpack("<HHIIHH", header[:16])
    if tag == EXTENSIBLE and len(header) == 26:
        valid, tag = struct.unpack("<H4xH", header[18:26])
        bits = min(bits, valid or bits)
    return (bits, 8 * bytes_taken // channels) if tag == PCM and channels else (0, 0)


def _read_libsndfile(path: Path | StoredFile, scale: int, first: int) -> Iterator[SoundBlock]:
    with _open_libsndfile(path) as file:
        size = block_size(file.samplerate)
        if file.seekable():
            file.seek(first)
        else:
            for begin in range(0, first, size):
                file.read(min(size, first - begin))
        while len(block := file.read(size, dtype="float32", always_2d=True)):
            yield block * np.float32(scale) if scale != 1 else block


def _read_ffmpeg(path: Path | StoredFile, rate: int, first: int) -> Iterator[SoundBlock]:
    """Blocks at one rate and of as many channels as the first, where a file changes either on its way."""
    from av import AudioResampler
    from av.error import FFmpegError

    def blocks() -> Iterator[SoundBlock]:
        try:
            yield from convert()
        except FFmpegError as error:
            raise _unreadable(path, error) from error

    def convert() -> Iterator[SoundBlock]:
        channels = None
        for _, frames in groupby(_decode_ffmpeg(path), _layout):
            # One takes frames that are alike. Not planes: PyAV may read beyond the last where there are 8 or more.
            resampler = AudioResampler(format="flt", rate=rate)
            for converted in chain.from_iterable(map(resampler.resample, chain(frames, [None]))):
                block = converted.to_ndarray().reshape(-1, converted.layout.nb_channels)
                channels = channels or block.shape[1]
                if block.shape[1] != channels:
                    block = np.repeat(block.mean(axis=1, keepdims=True), channels, axis=1)
                yield block

    return _regroup(_skip(blocks(), first), block_size(rate))


def _layout(frame) -> tuple[int, str, str]:
    return frame.sample_rate, frame.layout.name, frame.format.name


def _open_ffmpeg(file: BinaryIO):
    import av

    return av.open(file, "r", options={"format_whitelist": FORMATS})


def _decode_ffmpeg(path: Path | StoredFile) -> Iterator:
    """The frames (av.AudioFrame) of the first audio stream, without those that are damaged."""
    from av.error import FFmpegError

    try:
        with path.open("rb") as file, _open_ffmpeg(file) as container:
            if not container.streams.audio:
                return
            for packet in container.demux(container.streams.audio[0]):
                try:
                    frames = packet.decode()
                except FFmpegError:
                    continue
                yield from frames
    except FFmpegError as error:
        raise AudioError(f"{path} cannot be read as sound ({error.strerror}); give {SUPPORTED}") from error


def _skip(blocks: Iterable[SoundBlock], frames: int) -> Iterator[SoundBlock]:
    for block in blocks:
        if len(block) > frames:
            yield block[frames:]
        frames = max(0, frames - len(block))


def _regroup(blocks: Iterable[SoundBlock], size: int) -> Iterator[SoundBlock]:
    """The same frames in blocks of `size`; the last may be shorter."""
    waiting, count = [], 0
    for block in blocks:
        waiting.append(block)
        count += len(block)
        if count >= size:
            joined = np.concatenate(waiting)
            whole = count - count % size
            yield from (joined[first : first + size] for first in range(0, whole, size))
            waiting, count = [joined[whole:]], count - whole
    if count:
        yield np.concatenate(waiting)


class _Mono:
    """The mono of a sound, the mean of its channels or its `channel`; counts what the mean has left of their energy."""

    def __init__(self, sound: Sound, channel: int | None = None):
        self.sound, self.channel = sound, channel
        self.energy, self.energies = 0.0, np.zeros(1)  # of the mean and of each channel

    def read(self, first: int) -> Iterator[Float[np.ndarray, " frames"]]:
        for block in self.sound.read(first):
            if self.channel is not None:
                mono = block[:, self.channel].astype(np.float64)
            else:
                mono = block.mean(axis=1, dtype=np.float64)
                if block.shape[1] > 1:
                    self.energy += mono @ mono
                    self.energies = self.energies + np.square(block, dtype=np.float64).sum(axis=0)
            peak = np.abs(mono).max(initial=0.0)
            if not math.isfinite(peak):
                raise AudioError(f"{self.sound.name} has samples that are NaN or infinite; every sample must be finite")
            if peak > INTEGER_SCALE:
                raise AudioError(f"{self.sound.name} has floats up to {peak:g}; floats must be in [-1, 1]")
            yield mono

    def cancels(self) -> bool:
        return bool(self.energy < CANCELLED * self.energies.mean())

    def of_loudest_channel(self) -> "_Mono":
        return _Mono(self.sound, channel=int(self.energies.argmax()))


def _take_second(sound: Sound, start: float | None) -> Clip:
    _check_rate(sound)
    begin = None if start is None else _frame_at(sound, start)
    mono = _Mono(sound)
    clip = _take_mono(mono, begin)
    return _take_mono(mono.of_loudest_channel(), begin) if mono.cancels() else clip


def _check_rate(sound: Sound):
    if not LOWEST_RATE <= sound.rate <= HIGHEST_RATE:
        raise AudioError(f"{sound.name} has a rate of {sound.rate} Hz; it must be from {LOWEST_RATE} to {HIGHEST_RATE}")


def _take_mono(mono: _Mono, begin: int | None) -> Clip:
    if begin is None:
        begin = _find_loudest(mono)
    samples = _resample_second(mono, begin)
    return Clip(_to_int16(samples), begin / mono.sound.rate)


def _to_int16(samples: Float[np.ndarray, " samples"]) -> Int16[np.ndarray, " samples"]:
    # 16-bit samples were divided by 32768, so that this gives them back unchanged.
    return np.clip(np.round(samples * 32768.0), -32768, 32767).astype(np.int16)


def _frame_at(sound: Sound, start: float) -> int:
    """The frame at `start` seconds."""
    frame = round(start * sound.rate) if math.isfinite(start) else -1
    frames = sound.frames
    if frames is None and (frame < 0 or next(sound.read(frame), None) is None):
        frames = sum(len(block) for block in sound.read(0))
    if frames is not None and not 0 <= frame < frames:
        raise AudioError(
            f"{sound.name} lasts {frames / sound.rate:.3f} s; start must be from 0 to less than that, not {start}"
        )
    return frame


def _find_loudest(mono: _Mono) -> int:
    """The first frame of the loudest second."""
    hop = _hop(mono.sound.rate)
    frames, sums, squares = 0, [np.zeros(1)], [np.zeros(1)]
    for block in mono.read(0):
        frames += len(block)
        hops = np.append(block, np.zeros(-len(block) % hop)).reshape(-1, hop)
        sums.append(hops.sum(axis=1))
        squares.append((hops**2).sum(axis=1))
    if not frames:
        raise AudioError(f"{mono.sound.name} is damaged: no samples can be read")
    starts = np.arange(max(0, frames - mono.sound.rate) // hop + 1)

    def of_hops(parts: list[np.ndarray], first: np.ndarray, count: int) -> np.ndarray:
        total = np.cumsum(np.concatenate(parts))
        return total[np.minimum(first + count, len(total) - 1)] - total[np.minimum(first, len(total) - 1)]

    energy = of_hops(squares, starts, HOPS_PER_SECOND)
    offsets = sum(of_hops(sums, starts + first, BLOCK_HOPS) ** 2 for first in range(0, HOPS_PER_SECOND, BLOCK_HOPS))
    loudness = energy - offsets / (BLOCK_HOPS * hop)
    # A steady sound differs from one second to the next by rounding only: take the first of equals.
    return int(np.argmax(loudness >= loudness.max() - 1e-9 * energy.max())) * hop


def _resample_second(mono: _Mono, begin: int) -> Float[np.ndarray, "16000"]:
    """One second from frame `begin` at 16 kHz, resampled together with its neighbouring seconds, so without edges."""
    rate = mono.sound.rate
    first = max(0, begin - rate)
    wanted, blocks, count = begin + 2 * rate - first, [np.zeros(0)], 0
    for block in mono.read(first):
        blocks.append(block)
        count += len(block)
        if count >= wanted:
            break
    read = np.concatenate(blocks)[:wanted]
    offset = first - (begin - rate)
    if offset + len(read) <= rate:
        raise AudioError(f"{mono.sound.name} is damaged: no samples can be read {begin / rate:.3f} s after its start")
    around = np.zeros(3 * rate)
    around[offset : offset + len(read)] = read
    if rate != RATE:
        around = soxr.resample(around, rate, RATE)
    return around[RATE : 2 * RATE]


def _resample_all(mono: _Mono, longest: float | None, *, cut: bool = False) -> Int16[np.ndarray, " samples"]:
    """The whole sound at 16 kHz; memory holds it in 16 bits, a block of it in more.

    What is longer than `longest` seconds is refused or, with `cut`, left out.
    """
    stream = None if mono.sound.rate == RATE else soxr.ResampleStream(mono.sound.rate, RATE, 1, dtype="float64")
    parts, frames = [np.zeros(0, np.int16)], 0
    for block in mono.read(0):
        frames += len(block)
        if longest is not None and frames > longest * mono.sound.rate:
            if cut:
                block = block[: math.ceil(longest * mono.sound.rate) - frames + len(block)]
                parts.append(_to_int16(block if stream is None else stream.resample_chunk(block)))
                break
            raise AudioError(f"{mono.sound.name} lasts more than {longest:g} s; allowed: up to that")
        parts.append(_to_int16(block if stream is None else stream.resample_chunk(block)))
    if len(parts) == 1:
        raise AudioError(f"{mono.sound.name} is damaged: no samples can be read")
    if stream is not None:
        parts.append(_to_int16(stream.resample_chunk(np.zeros(0), last=True)))
    return np.concatenate(parts)


def write_wav(path: str | PathLike[str], samples: Int16[np.ndarray, " samples"]) -> None:
    """Write 16 kHz mono samples as a WAV file of 16 bits."""
    with naming(path), wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.astype("<i2").tobytes())
