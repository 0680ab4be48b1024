"""A sheet of the sample sounds and of what encoders make of them."""

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from jaxsd.audio import load_clip
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.evaluation.conditionings import encode_audio
from jaxsd.evaluation.report import contact_sheet
from jaxsd.runtime.bundled import TOY_SAMPLES
from jaxsd.runtime.progress import Progress


def draw_sample_sheet(
    path: str | Path,
    pipe: StableDiffusion,
    encoders: Mapping[str, nnx.Module],
    more: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Draw the sample sounds with every encoder and write the contact sheet.

    Args:
        path: the PNG file.
        pipe: the Stable Diffusion that draws, by its own steps and guidance.
        encoders: by what stands beside their row. Every sound has the same noise to start from in all rows.
        more: further rows, images (10, height, width, 3) in the order of the names of the samples.

    Returns:
        The path.
    """
    files = sorted(TOY_SAMPLES.glob("*.wav"))
    clips = np.stack([load_clip(file).samples for file in files])
    steps, images = pipe.sampling.steps, {}
    with Progress("sheet", steps * len(encoders), compiles=True) as progress:
        for number, (label, encoder) in enumerate(encoders.items()):
            images[label] = np.asarray(
                pipe(
                    encode_audio(encoder, clips),
                    key=jax.random.key(0),
                    on_step=lambda done, total, _, before=number * steps: progress.advance(before + done),
                )
            )
    return contact_sheet(path, [file.stem for file in files], clips, images | dict(more or {}))
