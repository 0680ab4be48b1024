"""Videos -> seconds of sound, each with its sharpest frame and a caption, and a manifest of them for `prepare`.

A video that is done has a record, written after its clips; a run that was stopped goes on with the videos that have
none, and ends with the same bytes. Worker processes cut the videos.
"""

import csv
import errno
import hashlib
import io
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int16
from PIL import Image

from jaxsd.audio import FORMATS, RATE, load_sound, write_wav
from jaxsd.data.captions import TEMPLATES, caption_all, caption_source
from jaxsd.data.executors import Executor, Work, choose_executor
from jaxsd.data.layouts.tables import list_files
from jaxsd.data.video import VIDEO_SUFFIXES, Frame, read_frames
from jaxsd.runtime.bundled import clip_source
from jaxsd.runtime.files import lock_folder, naming, read_json, replacing, write_json
from jaxsd.runtime.progress import Progress, counted

CUT_PLAN, MANIFEST_NAME, BAD_VIDEOS = "cut.json", "manifest.csv", "bad.csv"
IDENTIFIED = 2**20  # bytes at either end of a video that tell it from others, beside its size
JPEG_QUALITY = 95
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # no fault of a video


@dataclass(frozen=True)
class CutOptions:
    """Which seconds of a video are kept, and how.

    stride: seconds from one window to the next. min_loudness: dB of full scale, the root mean square around the mean;
    quieter ones are silent. max_clipped: the share of samples at full scale; more are clipped. min_motion: the mean
    difference in gray levels (of 255) between the first frame and that which differs most; less is static. side:
    pixels of the shortest side of a frame that is kept, where it has more. subtitles: whether they are read.
    """

    stride: float = 1.0
    min_loudness: float = -50.0
    max_clipped: float = 0.01
    min_motion: float = 0.5
    side: int = 512
    subtitles: bool = False

    def check(self):
        """Raise ValueError where a value is not allowed."""
        allowed = {
            "stride": (0.01 <= self.stride < math.inf, "seconds from 0.01"),
            "min-loudness": (-math.inf <= self.min_loudness <= 0, "dB up to 0"),
            "max-clipped": (0 <= self.max_clipped <= 1, "a share from 0 to 1"),
            "min-motion": (0 <= self.min_motion <= 255, "gray levels from 0 to 255"),
            "side": (self.side >= 1, "pixels from 1"),
        }
        for name, (fits, what) in allowed.items():
            if not fits:
                raise ValueError(f"--{name} is {getattr(self, name.replace('-', '_'))}; allowed: {what}")

    def thresholds(self) -> str:
        """What is left out of a video, in words."""
        return (
            f"quieter than {self.min_loudness:g} dB, more than {self.max_clipped:g} of the samples clipped, "
            f"frames that differ by less than {self.min_motion:g} gray levels"
        )


def cut_videos(
    videos: Sequence[str | Path],
    out,
    *,
    options: CutOptions = CutOptions(),
    captions: str | None = None,
    candidates: Path | None = None,
    templates: Sequence[str] = TEMPLATES,
    command: str | None = None,
    clip: str | None = None,
    leave_out: float = 0.0,
    part: float | None = None,
    workers: int | None = None,
    ray: str | None = None,
) -> str:
    """Cut videos into `out`/clips and write `out`/manifest.csv, or do what is left of it.

    Args:
        videos: files, or folders with videos at any depth.
        out: the folder.
        options: which seconds are kept.
        captions: a table of captions (columns file, start, text, or VGGSound's own), or "subtitles".
        candidates: a file with a word or a caption a line, among which CLIP chooses by the frame.
        templates: what is made of a candidate, {} being the candidate; their embeddings are averaged.
        command: a command that reads the paths of images, one a line, and writes a caption a line.
        clip: the CLIP that chooses and scores. The pairs are scored where it is given.
        leave_out: the share of the pairs of the lowest score that is left out of the manifest.
        part: a group is a part of a video of so many seconds; by default it is the whole video.
        workers: processes that cut (one a core); 0 cuts in this process.
        ray: the address of a Ray cluster that cuts, as `RayExecutor` takes it; `workers` is then of each of its actors.

    Returns:
        A sentence that says what was made.

    Raises:
        ValueError, FileNotFoundError: an argument or a table does not fit, `out` was made otherwise, or no clip is
            left.
    """
    options.check()
    if sum(one is not None for one in (captions, candidates, command)) != 1:
        raise ValueError("captions come from one of --captions, --candidates and --caption-command; give one of them")
    if not 0 <= leave_out < 1:
        raise ValueError(f"--leave-out is {leave_out}; allowed: a share from 0, below 1")
    if part is not None and not 1 <= part < math.inf:
        raise ValueError(f"--part is {part}; allowed: seconds from 1")
    if clip is None and (leave_out or candidates):
        raise ValueError("--candidates and --leave-out ask CLIP; name one (--clip)")
    executor = choose_executor(workers, ray)
    out = Path(out)
    source = caption_source(captions, candidates, templates, command)
    plan = {"options": asdict(options), **source.plan, "clip": clip}
    paths, names, bad = _name_videos(videos)
    if clip is not None:  # refuses a wrong one before anything is cut
        from jaxsd.clip.pipeline import read_clip_configs  # imports JAX, which the workers do not need

        read_clip_configs(clip_source(clip))
    with lock_folder(out):
        _check_plan(out / CUT_PLAN, plan)
        print(f"left out: {options.thresholds()}", file=sys.stderr)
        records = _cut_all(paths, names, out, options, executor)
        bad |= {str(path): records[path]["bad"] for path in records if "bad" in records[path]}
        good = {path: record for path, record in records.items() if record.get("rows")}
        rows = caption_all(good, names, out, source, clip)
        if part is not None:
            rows = [row | {"group": f"{row['group']}/{int(float(row['second']) // part)}"} for row in rows]
        uncaptioned = sum(len(record["rows"]) for record in good.values()) - len(rows)
        dropped = math.floor(leave_out * len(rows))
        worst = set(sorted(range(len(rows)), key=lambda index: (rows[index]["score"], index))[:dropped])
        rows = [row for index, row in enumerate(rows) if index not in worst]
        _write_table(
            out / BAD_VIDEOS, ("file", "reason"), [{"file": file, "reason": bad[file]} for file in sorted(bad)]
        )
        counts = Counter()
        for record in records.values():
            counts.update(record.get("left_out", {}))
        counts.update({"without a caption": uncaptioned, "of the lowest scores": dropped})
        said = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
        summary = f"{counted(len(rows), 'clip')} of {counted(len(good), 'video')}" + (
            f"; left out: {said}" if said else ""
        )
        summary += f"; {counted(len(bad), 'bad video')}, see {BAD_VIDEOS}" if bad else ""
        if not rows:
            raise ValueError(f"{out}: {summary}; no manifest is written")
        fields = ("audio", "image", "text", "group", *(["split"] if "split" in rows[0] else []), "video", "second")
        fields += ("score",) if clip else ()
        _write_table(out / MANIFEST_NAME, fields, rows)
    return summary


def _name_videos(videos: Sequence[str | Path]) -> tuple[list[Path], dict[Path, str], dict[str, str]]:
    """The videos that are to be cut, a name for each that holds wherever the file lies, and why others are bad."""
    paths: list[Path] = []
    for video in map(Path, videos):
        if not video.is_dir():
            if not video.exists():
                raise FileNotFoundError(f"{video}: no such file or folder")
            paths.append(video)
            continue
        found = [video / one for one in list_files(video) if one.suffix.lower() in VIDEO_SUFFIXES]
        if not found:
            raise ValueError(f"{video} holds no videos ({', '.join(VIDEO_SUFFIXES)})")
        paths += found
    names, first, bad = {}, {}, {}
    for path in dict.fromkeys(paths):
        try:
            name = _name_of(path)
        except OSError as error:
            bad[str(path)] = f"{path}: {error.strerror}"
            continue
        digest = name.rpartition("-")[2]
        if digest in first:
            bad[str(path)] = f"it is the same as {first[digest]}"
        else:
            first[digest], names[path] = path, name
    return list(names), names, bad


def _name_of(path: Path) -> str:
    """The stem of a video's file and a digest of its size and both its ends."""
    with path.open("rb") as file:
        size = path.stat().st_size
        digest = hashlib.sha256(f"{size}\n".encode() + file.read(IDENTIFIED))
        file.seek(max(0, size - IDENTIFIED))
        digest.update(file.read(IDENTIFIED))
    return f"{re.sub(r'[^A-Za-z0-9_.]+', '_', path.stem)[:60]}-{digest.hexdigest()[:16]}"


def _check_plan(path: Path, plan: dict[str, Any]):
    """Write the plan, or compare it with that which is there."""
    if path.is_file():
        old = read_json(path)
        different = [key for key in plan if old.get(key) != plan[key]]
        if different:
            said = "; ".join(f"{key} was {old.get(key)!r}, is {plan[key]!r}" for key in different)
            raise ValueError(f"{path.parent} was cut otherwise ({said}); remove it or choose another --out")
    else:
        write_json(path, plan)


def _cut_all(
    paths: Sequence[Path], names: Mapping[Path, str], out: Path, options: CutOptions, executor: Executor
) -> dict[Path, dict[str, Any]]:
    """Cut the videos that have no record; the records of all."""
    (out / "videos").mkdir(exist_ok=True)
    records = {path: out / "videos" / f"{names[path]}.json" for path in paths}
    left = [path for path in paths if not records[path].is_file()]
    make = partial(_cut_block, out=out, options=options)
    work = Work(_one_video, make, partial(make, given_up="reading it ended the process"))
    parts = [(str(path), names[path]) for path in left]
    by_name = {names[path]: path for path in left}
    started, clips = time.monotonic(), 0
    try:
        with (
            closing(executor.run(work, parts)) as all_made,
            Progress("cut", len(paths), len(paths) - len(left), unit="video") as progress,
        ):
            for done, ((_, name), record, _) in enumerate(all_made, start=len(paths) - len(left) + 1):
                write_json(records[by_name[name]], record)
                clips += len(record.get("rows", ()))
                progress.update({"clips/s": clips / (time.monotonic() - started)})
                progress.advance(done)
    except KeyboardInterrupt as stop:
        raise type(stop)("stopped; run the same command to go on") from None
    return {path: read_json(record) for path, record in records.items()}


def _one_video(part: tuple[str, str]) -> list[list[tuple[str, str]]]:
    return [[part]]


def _cut_block(block: Sequence[tuple[str, str]], out: Path, options: CutOptions, given_up: str | None = None) -> Any:
    """The record of one video, whose clips are on the disk then."""
    ((path, name),) = block
    try:
        if given_up:
            raise ValueError(given_up)
        return cut_video(Path(path), out, Path("clips") / name, options)
    except Exception as error:  # whatever a decoder makes of a broken video, it is left out and listed
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        reason = " ".join(str(error).split())
        return {"bad": reason if isinstance(error, ValueError) else f"{type(error).__name__}: {reason}"}


def cut_video(path: Path, out: Path, folder: Path, options: CutOptions) -> dict[str, Any]:
    """Write the seconds of one video that are kept into `out`/`folder`.

    Returns `rows` (start in seconds, audio and image relative to `out`), and how many windows are left out and why.
    Raises ValueError, naming the file, where the video has no sound, no moving picture, or less than a second of sound.
    """
    samples = load_sound(path)
    if len(samples) < RATE:
        raise ValueError(f"{path} has {len(samples) / RATE:.3f} s of sound; a clip takes 1 s")
    windows = [
        start
        for index in range(math.floor((len(samples) / RATE - 1) / options.stride + 1e-9) + 1)
        if (start := round(index * options.stride, 6)) * RATE + RATE <= len(samples) + 0.5
    ]
    seconds = {
        start: samples[(first := min(round(start * RATE), len(samples) - RATE)) : first + RATE] for start in windows
    }
    left_out = Counter()
    kept = []
    for start in windows:
        fault = _fault_of_sound(seconds[start], options)
        if fault:
            left_out[fault] += 1
        else:
            kept.append(start)
    cues = _read_subtitles(path) if options.subtitles else []
    rows, pictures = [], False
    for start, frame, motion in _best_frames(read_frames(path), kept):
        pictures = pictures or frame is not None
        if frame is None:
            left_out["without a picture"] += 1
        elif motion < options.min_motion:
            left_out["static"] += 1
        else:
            name = folder / f"{round(start * 1000):09d}"
            (out / folder).mkdir(parents=True, exist_ok=True)
            write_wav(out / f"{name}.wav", seconds[start])
            _write_jpeg(out / f"{name}.jpg", _fit(frame.to_image(), options.side))
            row = {"start": start, "audio": f"{name}.wav", "image": f"{name}.jpg"}
            if options.subtitles:
                row["subtitle"] = " ".join(text for begin, end, text in cues if begin < start + 1 and end > start)
            rows.append(row)
    if kept and not pictures:
        raise ValueError(f"{path} has no picture that can be decoded")
    return {"rows": rows, "left_out": dict(sorted(left_out.items()))}


def _write_jpeg(path: Path, image: Image.Image):
    """Through memory: into a file, Pillow's encoder does not notice that a disk took only a part."""
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=JPEG_QUALITY)
    with naming(path):
        path.write_bytes(encoded.getvalue())


def _fault_of_sound(samples: Int16[np.ndarray, " samples"], options: CutOptions) -> str | None:
    values = samples.astype(np.float64) / 2**15
    level = values.std()
    if 20 * math.log10(max(level, 1e-9)) < options.min_loudness:
        return "silent"
    return "clipped" if (np.abs(values) >= 1 - 2**-14).mean() > options.max_clipped else None


def _best_frames(frames: Iterable[Frame], starts: Sequence[float]) -> Iterator[tuple[float, Frame | None, float]]:
    """For every window of a second, in order: its sharpest frame, the first of equals, and how much its frames differ.

    Where a video shows one frame for long, the last one before a window belongs to it too.
    """
    waiting = list(starts)
    opened: dict[float, tuple[Frame, Frame, float]] = {}  # the first frame, the sharpest, the largest difference
    last: Frame | None = None

    def add(start: float, frame: Frame):
        if start not in opened:
            opened[start] = frame, frame, 0.0
            return
        first, best, motion = opened[start]
        difference = float(np.abs(frame.gray - first.gray).mean()) if frame.gray.shape == first.gray.shape else 255.0
        opened[start] = first, frame if frame.sharpness > best.sharpness else best, max(motion, difference)

    def close(start: float) -> tuple[float, Frame | None, float]:
        if start not in opened and last is not None and last.time < start + 1:
            return start, last, 0.0
        _, best, motion = opened.pop(start, (None, None, 0.0))
        return start, best, motion

    for frame in frames:
        while waiting and waiting[0] + 1 <= frame.time:
            yield close(waiting.pop(0))
        for start in waiting:
            if start > frame.time:
                break
            add(start, frame)
        last = frame
    for start in waiting:
        # What comes after the last frame is no picture, but where the last is still shown within the second.
        yield close(start) if start in opened else (start, None, 0.0)


def _fit(image: Image.Image, side: int) -> Image.Image:
    """The image with its shortest side no longer than `side`."""
    scale = side / min(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(length * scale)) for length in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _read_subtitles(path: Path) -> list[tuple[float, float, str]]:
    """Begin, end and text of the subtitles in a video, or else of the .srt or .vtt beside it."""
    import av
    from av.error import FFmpegError

    beside = next((one for suffix in (".srt", ".vtt") if (one := path.with_suffix(suffix)).is_file()), None)
    for file in (path, beside):
        if file is None:
            continue
        cues = []
        try:
            formats = FORMATS if file == path else "srt,webvtt"
            with file.open("rb") as opened, av.open(opened, "r", options={"format_whitelist": formats}) as container:
                if not container.streams.subtitles:
                    continue
                for packet in container.demux(container.streams.subtitles[0]):
                    if packet.pts is None or packet.time_base is None:
                        continue
                    begin = float(packet.pts * packet.time_base)
                    end = begin + float((packet.duration or 0) * packet.time_base)
                    text = " ".join(_text_of(one) for one in packet.decode())
                    if text.strip():
                        cues.append((begin, end, text.strip()))
        except FFmpegError as error:
            raise ValueError(f"{file} cannot be read for its subtitles ({error.strerror})") from error
        return cues
    return []


def _text_of(subtitle) -> str:
    """The plain text of a subtitle: FFmpeg gives all text subtitles as ASS, whose tags are in braces."""
    data = getattr(subtitle, "dialogue", None) or getattr(subtitle, "text", b"")
    text = data.decode("utf-8", errors="replace") if isinstance(data, bytes) else str(data)
    return " ".join(re.sub(r"<[^>]*>|\{[^}]*\}", "", text.replace("\\N", " ").replace("\\n", " ")).split())


def _write_table(path: Path, fields: Sequence[str], rows: Iterable[dict]):
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, fields, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
