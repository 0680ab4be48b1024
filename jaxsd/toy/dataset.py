"""The toy world as a data set on disk, with the features of its own CLIP and VAE."""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsd.clip.pipeline import CLIP
from jaxsd.clip.tokens import tokenize
from jaxsd.config import read_json
from jaxsd.data.columns import write_columns
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.diffusion.vae import VAE
from jaxsd.toy import world

BATCH = 250


def write_dataset(folder, split: str, size: int, weights: Path, seed: int = 0):
    """Write `size` examples of a split, with features of the models in `weights`, unless the folder has a data set.

    Raises ValueError where that data set is another.
    """
    folder = Path(folder)
    about = {"source": "toy world", "split": split, "seed": seed, "clip": "toy", "diffusion": "toy"}
    if (folder / "dataset.json").is_file():
        there = read_json(folder / "dataset.json")
        if {key: there.get(key) for key in about} != about or there["size"] != size:
            raise ValueError(f"{folder} holds {there}, not {size} rows of {about}; remove it or choose another folder")
        return
    print(f"{folder}: making {size} sounds, pictures and captions", file=sys.stderr, flush=True)
    clip = CLIP.from_pretrained(weights / "clip")
    pipe = StableDiffusion.from_pretrained(weights)
    scenes = world.scenes(split, size, seed)
    captions = world.captions(split, size, seed)
    pictures = world.pictures(scenes)
    columns = {
        "audio": world.sounds(split, size, seed),
        "text": in_batches(clip.embed_text, captions),
        "image": in_batches(clip.embed_arrays, pictures),
        "tokens": tokenize(pipe.tokenizer, captions),
        "latents": encode_pictures(pipe.vae, pictures) * pipe.vae.config.scaling_factor,
        "thing": np.array([world.THINGS.index(scene.thing) for scene in scenes], np.int32),
    }
    halves = {name: columns[name].astype(np.float16) for name in ("text", "image", "latents")}
    write_columns(folder, columns | halves, about)


def encode_pictures(vae: VAE, pictures: np.ndarray) -> np.ndarray:
    """Mean latents of uint8 pictures (n, height, width, 3), float32, unscaled."""
    encode = nnx.jit(lambda vae, x: vae.encode(to_float(x)).mean)
    return in_batches(lambda x: encode(vae, x), pictures)


def to_float(pictures):
    """uint8 pictures -> float32 in [-1, 1], as the VAE takes them."""
    return jnp.asarray(pictures, jnp.float32) / 127.5 - 1


def in_batches(function, rows) -> np.ndarray:
    """`function` over `rows`, BATCH at a time (the last one padded, so that it compiles once)."""
    results = []
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        missing = BATCH - len(part)
        if isinstance(part, np.ndarray):
            padded = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])
        else:
            padded = [*part, *[part[-1]] * missing]
        results.append(np.asarray(function(padded))[: len(part)])
    return np.concatenate(results)
