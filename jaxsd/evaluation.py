"""Measures an audio encoder on a held-out data set."""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.objectives import cross_entropies, denoising_errors, pooled

BATCH = 50  # rows at a time; a data set's last rows beyond a multiple are dropped


def batches(rows: int) -> list[slice]:
    """Slices of BATCH rows. Raises ValueError if there is not one."""
    if rows < BATCH:
        raise ValueError(f"{rows} rows are too few to evaluate on; at least {BATCH} are needed")
    return [slice(start, start + BATCH) for start in range(0, rows - BATCH + 1, BATCH)]


def encode_audio(encoder: nnx.Module, audio: np.ndarray) -> np.ndarray:
    """The encoder's rows, float32 (n, 77, width), of int16 clips (n, 16000)."""
    encode = nnx.jit(lambda encoder, pcm: encoder(pcm))
    return np.concatenate([encode(encoder, audio[part]) for part in batches(len(audio))])


def alignment(rows: np.ndarray, data: Mapping[str, np.ndarray], projection: jax.Array) -> dict[str, float]:
    """The paper's loss (arXiv 2509.09717, eq. 2) and TCEOCS over all rows at once, their chance level, and recall.

    `recall_i` is the share of sounds whose own picture is among the ten nearest by CLIP's image embedding. Many
    pictures show the same thing, so even a perfect encoder stays far from 1: compare encoders by it, nothing else.
    """
    vectors = jnp.concatenate([pooled(jnp.asarray(rows[part]), projection) for part in batches(len(rows))])
    text, image = (jnp.asarray(data[name][: len(rows)], jnp.float32) for name in ("text", "image"))
    with_text, with_image = cross_entropies(vectors, text), cross_entropies(vectors, image)
    similarity = vectors @ image.T
    better = (similarity > jnp.diagonal(similarity)[:, None]).sum(axis=1)
    return {
        "loss": float(with_text + with_image) / 6,
        "TCEOCS_t": float(with_text),
        "TCEOCS_i": float(with_image),
        "chance": 2 * math.log(len(rows)),
        "recall_i@10": float(jnp.mean(better < 10)),
    }


def denoising_loss(pipe: StableDiffusion, latents: np.ndarray, context: np.ndarray) -> float:
    """Mean denoising error of the frozen U-Net on `latents` under `context`: how well that speaks its language.

    The same noise and timesteps for every conditioning, so that differences are those of the conditioning.
    """
    error = nnx.jit(lambda unet, *batch: denoising_errors(unet, pipe.schedule, *batch)[0].mean())
    keys = jax.random.split(jax.random.key(0), len(latents))
    errors = [
        error(pipe.unet, jnp.asarray(latents[part], jnp.float32), jnp.asarray(context[part]), keys[part.start])
        for part in batches(len(latents))
    ]
    return float(np.mean(errors))


def pictures(
    pipe: StableDiffusion, context: np.ndarray, *, guidance: float, steps: int, progress: Callable = lambda _: None
) -> np.ndarray:
    """One picture of each conditioning (n, 77, width): float32 (n, height, width, 3) in [0, 1]."""
    made = []
    for part in batches(len(context)):
        key = jax.random.fold_in(jax.random.key(1), part.start)
        made.append(np.asarray(pipe(context[part], guidance=guidance, steps=steps, key=key)))
        progress(part.stop)
    return np.concatenate(made)


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count` trials (Wilson's score interval)."""
    z = 1.96
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)
