"""Small videos made with PyAV: moving blocks and tones, and the ways in which videos are odd or broken."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE_OF_SOUND, RATE_OF_FRAMES, SIZE = 44_100, 10, (96, 64)


def frame_array(index: int, seed: int = 0, moving: bool = True) -> np.ndarray:
    """uint8 (height, width, 3): blocks that move by two pixels a frame."""
    blocks = np.random.default_rng(seed).integers(0, 256, (SIZE[1] // 8, SIZE[0] // 8, 3)).repeat(8, 0).repeat(8, 1)
    return np.roll(blocks, 2 * index if moving else 0, axis=1).astype(np.uint8)


def write_video(
    path: Path,
    seconds: float = 4.0,
    *,
    seed: int = 0,
    sound: bool = True,
    picture: bool = True,
    moving: bool = True,
    layout: str = "stereo",
    silent: tuple[float, float] = (0.0, 0.0),
    times: list[float] | None = None,
    rotation: int = 0,
):
    """Write a video. `times` are those of the frames, by default ten a second; `silent` is a part without sound."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=RATE_OF_FRAMES) if picture else None
        tone = container.add_stream("aac", rate=RATE_OF_SOUND, layout=layout) if sound else None
        if video is not None:
            video.width, video.height, video.pix_fmt, video.bit_rate = *SIZE, "yuv420p", 2_000_000
            video.codec_context.time_base = Fraction(1, 1000)
            if rotation:
                video.set_display_rotation(rotation)
            times = times or [index / RATE_OF_FRAMES for index in range(round(seconds * RATE_OF_FRAMES))]
            for index, time in enumerate(times):
                frame = av.VideoFrame.from_ndarray(frame_array(index, seed, moving), format="rgb24")
                frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if tone is not None:
            at = np.arange(round(seconds * RATE_OF_SOUND)) / RATE_OF_SOUND
            wave = 0.3 * np.sin(2 * np.pi * (300 + 50 * seed + 100 * np.floor(at)) * at)
            wave[(at >= silent[0]) & (at < silent[1])] = 0
            channels = len(tone.codec_context.layout.channels)
            samples = np.tile(wave.astype(np.float32), (channels, 1))
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = RATE_OF_SOUND, 0
            container.mux(tone.encode(frame))
            container.mux(tone.encode(None))
