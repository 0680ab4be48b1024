"""Makes data sets of the toy world, and says how to evaluate on them.

`jaxsd.runtime.bundled.load_maker("toy")` gives this module to commands that know nothing of the toy world.
"""

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import UInt8
from PIL import Image

from jaxsd.clip.pipeline import CLIP
from jaxsd.config import one_of
from jaxsd.data.build import AHEAD, SplitBuild, build, is_built
from jaxsd.data.columns import METADATA, ColumnType, read_metadata
from jaxsd.data.executors import LocalExecutor
from jaxsd.data.features import FeatureTowers, to_float
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.evaluation.inputs import EvaluationSplit
from jaxsd.runtime.bundled import TOY_MODEL, model_source
from jaxsd.runtime.progress import counted
from jaxsd.toy import world
from jaxsd.toy.judge import load_judge, verdicts

MAKER = "toy"  # the name of this module in jaxsd.runtime.bundled.MAKERS
MODELS = {"clip": "toy", "diffusion": "toy"}  # whose features the data have, as dataset.json names them
HELD_OUT = 1_000  # examples of a split of which nobody says how many there should be
SPEED = (0.01, 0.2)  # seconds a clip and an image under one conditioning, in `make demo` on two CPU cores
JUDGED = 200  # images of an evaluation where nobody says how many to draw
SERIAL_EXAMPLES = 512  # below this many, starting processes costs more than it saves
MADE_COLUMNS = {"audio": ColumnType(np.int16, (world.SAMPLE_RATE,)), "class": ColumnType(np.int32, ())}


def make_split(folder, split: str, size: int | None = None, *, seed: int = 0, weights: Path = TOY_MODEL) -> bool:
    """Make one split of the toy world in `folder`, or what is missing of it.

    Args:
        folder: the folder of the split itself.
        split: a name of `world.WORLD_SPLITS`, from which the examples are drawn.
        size: how many examples. None: the split is as the one in `folder` says of itself, and a new one has HELD_OUT.
        seed: the world's seed.
        weights: folder of the models that compute the features.

    Returns:
        Whether there was anything to make.

    Raises:
        ValueError: `folder` holds data of another source, size, seed or of other models, `split` is unknown, or `size`
            is below 1.
    """
    if size is None:
        metadata = _read_metadata(Path(folder))
        split, seed = metadata.get("split", split), metadata.get("seed", seed)
        size = int(metadata.get("rows", HELD_OUT))
        weights = model_source(metadata.get("diffusion", weights))
    return _make([_split_build(Path(folder), split, size, seed, Path(weights))], Path(weights))


def make_dataset(folder, sizes: Mapping[str, int], *, seed: int = 0) -> bool:
    """Make the splits of these sizes, each in a folder of its name in `folder`, or what is missing of them.

    Returns whether there was anything to make. Raises ValueError as `make_split` does, before anything is made.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}; allowed: from 0")
    builds = [_split_build(Path(folder) / split, split, size, seed, TOY_MODEL) for split, size in sizes.items()]
    return _make(builds, TOY_MODEL)


def evaluation_options(split: EvaluationSplit, count: int | None = None) -> dict[str, Any]:
    """The keyword arguments of `jaxsd.evaluation.evaluate.evaluate` for a split of the toy world.

    `count` is the number of images to draw under every conditioning, 0 for none (default: 200, or all there are).
    """
    count = min(JUDGED, len(split)) if count is None else count
    if not count:
        return {"speed": SPEED}
    drawn = split.metadata["split"], count, split.metadata["seed"]
    scenes = world.scenes(*drawn)
    return {
        "speed": SPEED,
        "image_count": count,
        "judge": partial(verdicts, load_judge(), scenes=scenes, captions=world.captions(*drawn)),
        "real_images": world.images(scenes).astype(np.float32) / 255,
    }


def see_classes(images: UInt8[np.ndarray, "n height width 3"]) -> list[str]:
    """The class that the judge sees in each image of any size."""
    side = world.images([]).shape[1]
    small = [np.asarray(Image.fromarray(image).resize((side, side))) for image in images]
    logits = nnx.jit(lambda judge, pixels: judge(pixels))(load_judge(), to_float(np.stack(small)))
    return [world.CLASSES[index] for index in np.asarray(logits["class"]).argmax(axis=1)]


def _read_metadata(folder: Path) -> dict[str, Any]:
    """The dataset.json in `folder`, {} where there is none. Raises ValueError where it is not of the toy world."""
    if not (folder / METADATA).is_file():
        return {}
    metadata = read_metadata(folder)
    if metadata.get("source") != "toy world":
        raise ValueError(
            f"{folder} holds a data set of {metadata.get('source', 'another source')}, not of the toy world; "
            "choose another folder, or set --config.data.maker= to train on that data set as it is"
        )
    return metadata


def _split_build(folder: Path, split: str, size: int, seed: int, weights: Path) -> SplitBuild:
    _read_metadata(folder)
    one_of("split", split, world.WORLD_SPLITS)
    if size < 1:
        raise ValueError(f"{folder}: {counted(size, 'example')}; allowed: 1 or more")
    models = MODELS
    if weights.resolve() != TOY_MODEL.resolve():
        models = {"clip": str((weights / "clip").resolve()), "diffusion": str(weights.resolve())}
    metadata = {
        "source": "toy world",
        "maker": MAKER,
        "split": split,
        "rows": size,
        "seed": seed,
        **models,
        "weights": _weights_digest(weights),
        "classes": list(world.CLASSES),
        "class_captions": [world.class_caption(name) for name in world.CLASSES],
    }
    return SplitBuild(folder, size, lambda first, last: [(split, index) for index in range(first, last)], metadata)


def _weights_digest(weights: Path) -> str:
    """A digest of the parameters of all models: features of other models are another data set."""
    digest = hashlib.sha256()
    for path in sorted(weights.rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _make(builds: list[SplitBuild], weights: Path) -> bool:
    if is_built(builds):
        return False
    clip = CLIP.from_pretrained(weights / "clip", dtype=np.float32)
    pipe = StableDiffusion.from_pretrained(weights, dtype=np.float32)
    towers = FeatureTowers(clip, pipe.vae, pipe.unet.config.sample_size * pipe.vae.config.factor)
    workers = 0 if sum(one.size for one in builds) < SERIAL_EXAMPLES else None
    make = partial(world.make_examples, seed=builds[0].metadata["seed"])
    build(builds, make, MADE_COLUMNS, towers, executor=LocalExecutor(workers, AHEAD))
    return True
