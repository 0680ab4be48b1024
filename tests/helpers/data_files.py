"""Small sounds and pictures of many kinds with a manifest, some of them broken in every way that is known."""

import csv
import json
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

WORDS = ("a", "red", "dog", "barking", "at", "night", "blue", "bell", "ringing", "in", "the", "snow", "organ", "waves")
SIDE = 24  # pixels


def sound(row: int) -> np.ndarray:
    """The second of 16 kHz int16 that the sound of a row is."""
    return np.random.default_rng([row, 0]).integers(-9000, 9000, 16_000).astype(np.int16)


def picture(row: int) -> np.ndarray:
    """The picture of a row, uint8 (SIDE, SIDE + 4, 3), in blocks of one colour."""
    blocks = np.random.default_rng([row, 1]).integers(0, 256, (SIDE // 4, SIDE // 4 + 1, 3))
    return blocks.repeat(4, axis=0).repeat(4, axis=1).astype(np.uint8)


def caption(row: int) -> str:
    return " ".join(np.random.default_rng([row, 2]).choice(WORDS, 6))


def write_sound(path: Path, row: int):
    # 3,000 samples of something else come first: `start` leaves them out.
    soundfile.write(path, np.concatenate([np.zeros(3_000, np.int16), sound(row)]), 16_000)


@cache
def png(width: int, height: int, rows: bytes) -> bytes:
    """A grey 1-bit PNG that says it has this size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


def cut(path: Path, size: int):
    path.write_bytes(path.read_bytes()[:size])


def not_finite(path: Path):
    samples = np.zeros(20_000, np.float32)
    samples[5_000] = np.nan
    soundfile.write(path, samples, 16_000, format="WAV", subtype="FLOAT")


def absurd_rate(path: Path):
    data = bytearray(path.read_bytes())
    at = data.index(b"fmt ") + 12
    data[at : at + 4] = struct.pack("<I", 2**31 - 1)
    path.write_bytes(data)


# How a file is broken and what the list of skipped rows then says of it.
BROKEN_SOUNDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "does not exist"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "truncated": (lambda path: cut(path, 30), "cannot be read as sound"),
    "text": (lambda path: path.write_text("no sound at all\n" * 20), "cannot be read as sound"),
    "absurd header": (absurd_rate, "Hz; it must be from 1000 to 768000"),
    "not finite": (not_finite, "NaN or infinite"),
}
BROKEN_PICTURES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "No such file"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as an image"),
    "truncated": (lambda path: cut(path, path.stat().st_size // 2), "cannot be read as an image"),
    "text": (lambda path: path.write_text("no picture at all\n" * 20), "cannot be read as an image"),
    "absurd header": (lambda path: path.write_bytes(png(2**31 - 1, 2**31 - 1, b"")), "too many pixels"),
    "bomb": (lambda path: path.write_bytes(png(20_000, 20_000, bytes(2_501 * 20_000))), "too many pixels"),
    "narrow": (lambda path: path.write_bytes(png(1, 80_000_000 // 64, bytes(2 * 80_000_000 // 64))), "too narrow"),
}
BROKEN_CAPTIONS: dict[str, tuple[str, str]] = {
    "empty": ("", "the caption is empty"),
    "blank": (" \t ", "the caption is empty"),
    "pointer": ("version https://git-lfs.github.com/spec/v1", "the caption is a pointer of Git LFS"),
}
BROKEN = [
    *(("audio", kind) for kind in BROKEN_SOUNDS),
    *(("image", kind) for kind in BROKEN_PICTURES),
    *(("text", kind) for kind in BROKEN_CAPTIONS),
    ("start", "beyond"),
]


def write_files(
    folder: Path, rows: int, broken: float, suffix: str = ".csv"
) -> tuple[Path, dict[int, tuple[str, str]]]:
    """A manifest of `rows` rows, of which about the share `broken` is bad, every kind in turn, and of each bad row the
    file and the reason that the list of skipped rows must have."""
    (folder / "files").mkdir(parents=True)
    manifest, expected = [], {}
    for row in range(rows):
        audio, image = f"files/{row}.wav", f"files/{row}.png"
        write_sound(folder / audio, row)
        Image.fromarray(picture(row)).save(folder / image)
        manifest.append(
            {
                "audio": audio,
                "image": image,
                "text": caption(row),
                "start": 3_000 / 16_000,
                "group": f"video {row // 3}",
            }
        )
    bad = np.random.default_rng(0).permutation(rows)[: round(rows * broken)]
    for index, row in enumerate(bad.tolist()):
        what, kind = BROKEN[index % len(BROKEN)]
        entry = manifest[row]
        if what == "audio":
            breaks, reason = BROKEN_SOUNDS[kind]
            breaks(folder / entry["audio"])
        elif what == "image":
            breaks, reason = BROKEN_PICTURES[kind]
            breaks(folder / entry["image"])
        elif what == "text":
            entry["text"], reason = BROKEN_CAPTIONS[kind]
        else:
            entry["start"], reason = 99.0, "start must be from 0 to less than that"
        expected[row] = ("" if what == "text" else entry["image" if what == "image" else "audio"], reason)
    path = folder / f"manifest{suffix}"
    write_manifest(path, manifest)
    return path, expected


def write_manifest(path: Path, rows: list[dict]):
    """Rows of equal keys as CSV or JSON Lines."""
    with path.open("w", newline="") as file:
        if path.suffix == ".csv":
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)
