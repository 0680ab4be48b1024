"""Images that follow a sound, as a film: animated WebP or GIF, or MP4 with the sound."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from jaxsd.audio import Sound
from jaxsd.recipes.recipe import MP4

FILMS = (".webp", ".gif", MP4)
WEBP_QUALITY = 90
SOUND_RATE = 48_000  # Hz, that of the sound in an MP4
MILLISECONDS = Fraction(1, 1000)


def write_film(path: Path, images: Sequence[Image.Image], times: Sequence[float], sound: Sound, comment: str) -> None:
    """Write a film, of the format that the name of `path` ends in.

    Args:
        path: the file.
        images: of one size.
        times: when each begins and, last, when the film ends; in seconds.
        sound: of an MP4; what of it is after the end is left out.
        comment: a text that the file carries.
    """
    if path.suffix.lower() == MP4:
        _write_mp4(path, images, times, sound, comment)
        return
    ends = np.round(np.asarray(times) * 1000).astype(int)
    options = {"save_all": True, "append_images": images[1:], "duration": np.diff(ends).tolist(), "loop": 0}
    if path.suffix.lower() == ".gif":
        images[0].save(path, format="GIF", comment=comment.encode(), **options)
    else:
        images[0].save(path, format="WEBP", quality=WEBP_QUALITY, xmp=comment.encode(), **options)


def _write_mp4(path: Path, images: Sequence[Image.Image], times: Sequence[float], sound: Sound, comment: str) -> None:
    import av

    with av.open(str(path), "w", format="mp4") as container:
        container.metadata["comment"] = comment
        video = container.add_stream("libx264" if "libx264" in av.codecs_available else "mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = *images[0].size, "yuv420p"
        video.codec_context.time_base = MILLISECONDS
        audio = container.add_stream("aac", rate=SOUND_RATE, layout="stereo")
        # The last image once more: a format whose images have beginnings alone would show it for a moment.
        last = max(times[-2], times[-1] - 0.04)
        shown = [*zip(images, times, strict=False), *([(images[-1], last)] if last > times[-2] else [])]
        for image, time in shown:
            frame = av.VideoFrame.from_image(image)
            frame.pts, frame.time_base = round(time * 1000), MILLISECONDS
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        resampler = av.AudioResampler(format="fltp", layout="stereo", rate=SOUND_RATE)
        written, length = 0, round(times[-1] * sound.rate)
        for block in sound.read(0):
            block = block[: length - written]
            if not len(block):
                break
            if block.shape[1] > 2:
                block = block.mean(axis=1, keepdims=True)
            layout = "mono" if block.shape[1] == 1 else "stereo"
            samples = np.ascontiguousarray(block.T.clip(-1, 1).astype(np.float32))
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = sound.rate, written, Fraction(1, sound.rate)
            written += len(block)
            for resampled in resampler.resample(frame):
                container.mux(audio.encode(resampled))
        for resampled in resampler.resample(None):
            container.mux(audio.encode(resampled))
        container.mux(audio.encode(None))
