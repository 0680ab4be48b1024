"""Frames of videos, upright and with square pixels. Worker processes read them, so nothing here imports JAX."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32
from PIL import Image

from jaxsd.audio import FORMATS
from jaxsd.runtime.files import StoredFile

VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".flv", ".ts", ".wmv")
EXAMINED_WIDTH = 160  # pixels of the gray image on which sharpness and motion are measured


class Frame(NamedTuple):
    """A frame of a video.

    time: seconds after the first sample of the video's sound. gray: float32 (height, 160), 0 to 255. picture: an
    av.VideoFrame. rotation: by how many degrees, counterclockwise, it is to be turned. aspect: of a pixel.
    """

    time: float
    gray: Float32[np.ndarray, "height width"]
    picture: object
    rotation: int
    aspect: float

    @property
    def sharpness(self) -> float:
        """The variance of the Laplacian."""
        g = self.gray
        laplacian = g[:-2, 1:-1] + g[2:, 1:-1] + g[1:-1, :-2] + g[1:-1, 2:] - 4 * g[1:-1, 1:-1]
        return float(laplacian.var())

    def to_image(self) -> Image.Image:
        """The frame as RGB, upright and with square pixels."""
        image: Image.Image = self.picture.to_image()  # type: ignore[attr-defined]
        if self.aspect != 1:
            image = image.resize((max(1, round(image.width * self.aspect)), image.height), Image.Resampling.BICUBIC)
        return image.rotate(self.rotation, expand=True) if self.rotation else image


def is_video(file: Path | StoredFile) -> bool:
    """Whether a file's name is that of a video."""
    return Path(str(file)).suffix.lower() in VIDEO_SUFFIXES


def read_frames(path: Path | StoredFile, start: float = 0.0) -> Iterator[Frame]:
    """The frames of a video's first stream of moving pictures, without those that are damaged.

    Frames before `start` may be among them, back to the last frame that all after it can be decoded from.

    Raises ValueError, naming the file, where it is no video or holds no picture.
    """
    import av
    from av.error import FFmpegError

    try:
        with path.open("rb") as file, av.open(file, "r", options={"format_whitelist": FORMATS}) as container:
            streams = [one for one in container.streams.video if not one.disposition & one.disposition.attached_pic]
            if not streams:
                raise ValueError(f"{path} holds no moving picture")
            stream = streams[0]
            stream.thread_type = "SLICE"  # the workers are many already
            sound = container.streams.audio[0] if container.streams.audio else None
            zero = float(sound.start_time * sound.time_base) if sound and sound.start_time and sound.time_base else 0.0
            if start + zero > 0:
                with suppress(FFmpegError):  # a format without an index is read from its beginning
                    container.seek(max(0, round((start + zero) * 1e6)))  # microseconds
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except FFmpegError:
                    continue
                for frame in frames:
                    if frame.time is None or not frame.width:
                        continue
                    aspect = float(stream.sample_aspect_ratio or 1) or 1.0
                    height = max(3, round(EXAMINED_WIDTH * frame.height / frame.width))
                    gray = frame.reformat(EXAMINED_WIDTH, height, "gray").to_ndarray().astype(np.float32)
                    yield Frame(float(frame.time) - zero, gray, frame, round(frame.rotation), aspect)
    except FFmpegError as error:
        raise ValueError(f"{path} cannot be read as a video ({error.strerror})") from error


def sharpest_frame(path: Path | StoredFile, start: float) -> Image.Image:
    """The sharpest frame, the first of equals, of the second that begins at `start` seconds of the sound.

    Where no frame begins in that second, the last one before it is taken, which is still shown. Raises ValueError where
    there is none.
    """
    best = None
    for frame in read_frames(path, start):
        if frame.time >= start + 1:
            break
        if best is None or best.time < start or frame.sharpness > best.sharpness:
            best = frame
    if best is None:
        raise ValueError(f"{path} has no picture in the second that begins at {start:.3f} s")
    return best.to_image()
