"""The toy world as a data set on disk, with the features of its own CLIP and VAE."""

import hashlib
from functools import partial
from pathlib import Path

import numpy as np
from flax import nnx

from jaxsd.bundled import TOY_MODEL
from jaxsd.clip.pipeline import CLIP
from jaxsd.data.build import SplitBuild, all_there, build
from jaxsd.data.columns import Kind
from jaxsd.data.features import FeatureTowers, to_float
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.diffusion.vae import VAE
from jaxsd.toy import world
from jaxsd.toy.world.examples import make

BATCH = 250
SMALL = 512  # below this many rows, starting processes costs more than it saves
MADE: dict[str, Kind] = {"audio": (np.int16, (world.SAMPLE_RATE,)), "thing": (np.int32, ())}


def write_toy(folder, size: int, held_out: int, seed: int = 0) -> bool:
    """Write `folder`/train of `size` rows and `folder`/validation and /test of `held_out` each, or what is missing.

    Returns whether there was anything to write. Raises ValueError for a size below 1 or a folder of another data set.
    """
    sizes = {"train": size, "validation": held_out, "test": held_out}
    return _write([_split(Path(folder) / name, name, rows, TOY_MODEL, seed) for name, rows in sizes.items()], TOY_MODEL)


def write_dataset(folder, split: str, size: int, weights: Path = TOY_MODEL, seed: int = 0):
    """Write `size` examples of a split, with features of the models in `weights`, or what is missing of them.

    Raises ValueError where `folder` holds another data set.
    """
    _write([_split(Path(folder), split, size, Path(weights), seed)], Path(weights))


def _split(folder: Path, name: str, size: int, weights: Path, seed: int) -> SplitBuild:
    if size < 1:
        raise ValueError(f"{folder}: {size} rows; allowed: 1 or more")
    models = {"clip": "toy", "diffusion": "toy"}
    if weights.resolve() != TOY_MODEL.resolve():
        models = {"clip": str((weights / "clip").resolve()), "diffusion": str(weights.resolve())}
    about = {"source": "toy world", "split": name, "rows": size, "seed": seed, **models, "weights": _digest(weights)}
    return SplitBuild(folder, size, lambda first, last: [(name, index) for index in range(first, last)], about)


def _digest(weights: Path) -> str:
    """Of the parameters of all models: features of others are another data set."""
    digest = hashlib.sha256()
    for path in sorted(weights.rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _write(splits: list[SplitBuild], weights: Path) -> bool:
    if all_there(splits):
        return False
    clip = CLIP.from_pretrained(weights / "clip", dtype=np.float32)
    pipe = StableDiffusion.from_pretrained(weights, dtype=np.float32)
    side = pipe.unet.config.sample_size * pipe.vae.config.factor
    small = sum(split.size for split in splits) < SMALL
    seed = splits[0].about["seed"]
    build(splits, partial(make, seed=seed), MADE, FeatureTowers(clip, pipe.vae, side), workers=0 if small else None)
    return True


def encode_pictures(vae: VAE, pictures: np.ndarray) -> np.ndarray:
    """Mean latents of uint8 pictures (n, height, width, 3), float32, unscaled."""
    encode = nnx.jit(lambda vae, x: vae.encode(to_float(x)).mean)
    return in_batches(lambda x: encode(vae, x), pictures)


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
