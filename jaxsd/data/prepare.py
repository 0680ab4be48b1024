"""A manifest of sounds, images and captions -> data sets with CLIP's features, ready to train on."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxsd.audio import RATE
from jaxsd.bundled import clip_source, model_source
from jaxsd.clip.pipeline import CLIP
from jaxsd.data.build import SplitBuild, build, is_built
from jaxsd.data.columns import SPLITS, ColumnType
from jaxsd.data.decode import decode_rows
from jaxsd.data.features import FeatureTowers
from jaxsd.data.manifest import Manifest, draw_splits, read_manifest
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.diffusion.unet import UNetConfig
from jaxsd.diffusion.vae import VAEConfig
from jaxsd.pretrained.hub import fetch
from jaxsd.pretrained.model_config import read_model_config

SKIPPED = "skipped.csv"
DECODED_COLUMNS = {"audio": ColumnType(np.int16, (RATE,)), "row": ColumnType(np.int64, ())}
CLASS_COLUMN = {"class": ColumnType(np.int32, ())}


def prepare_dataset(
    manifest,
    out,
    *,
    clip: str,
    revision: str | None = None,
    diffusion: str | None = None,
    size: int | None = None,
    validation: str | None = None,
    test: str | None = None,
    seed: int = 0,
    max_bad: float = 0.05,
    workers: int | None = None,
) -> bool:
    """Make the splits `out`/train, /validation and /test of a manifest's rows, or what is left of them to make.

    Every process of `jax.distributed` does its share of one `out` on a shared file system.

    Args:
        manifest: a file as `read_manifest` takes it.
        out: folder of the data set.
        clip: the CLIP whose features are stored: "toy", a folder or a Hugging Face id.
        revision: branch, tag or commit of that CLIP on the hub.
        diffusion: the Stable Diffusion whose VAE's latents of the images are stored too; None for no latents.
        size: the side in pixels of the images that become latents (that which the model was trained on).
        validation, test: rows of these splits, as in `draw_splits`.
        seed: of the splits.
        max_bad: the share of the rows that may be bad. Bad rows are left out and listed in `out`/skipped.csv.
        workers: processes that read files (one a core); 0 reads in this process.

    Returns:
        Whether there was anything to make.

    Raises:
        ValueError, FileNotFoundError: an argument or the manifest does not fit, `out` was made otherwise, or too many
            rows are bad.
    """
    if not 0 <= max_bad <= 1:
        raise ValueError(f"--max-bad is {max_bad}; allowed: a share from 0 to 1")
    source = read_manifest(manifest)
    metadata = _describe(source, clip, revision, diffusion, size, seed)
    rows = draw_splits(source, validation, test, seed)
    splits = _plan_splits(source, Path(out), metadata, rows)
    for name in SPLITS:
        if name not in rows and (Path(out) / name).exists():
            raise ValueError(f"{Path(out) / name} is there, but no rows are for it; remove it or choose another --out")
    if is_built(splits):
        return False
    towers = _load_towers(metadata)
    make = partial(decode_rows, folder=source.path.parent, clip_size=towers.clip_size, vae_size=towers.vae_size)
    build(
        splits,
        make,
        DECODED_COLUMNS | (CLASS_COLUMN if source.classes else {}),
        towers,
        give_up=partial(make, given_up="reading it ended the process"),
        workers=workers,
        skipped=Path(out) / SKIPPED,
        max_bad=max_bad,
    )
    return True


def _describe(
    source: Manifest, clip: str, revision: str | None, diffusion: str | None, size: int | None, seed: int
) -> dict[str, Any]:
    """What `dataset.json` says of how the data set is made."""
    model = None if diffusion is None else model_source(diffusion)
    return {
        "source": source.path.name,
        "source_sha256": source.digest,
        "seed": seed,
        "classes": source.classes or None,
        "clip": _portable_name(clip),
        "clip_revision": _find_commit(clip_source(clip), revision, "config.json"),
        "diffusion": _portable_name(diffusion) if diffusion else None,
        "diffusion_revision": _find_commit(model, None, "unet/config.json") if model else None,
        "picture_size": _image_size(model, size) if model else None,
    }


def _portable_name(model: str) -> str:
    """A name of the model that holds in any folder."""
    return str(Path(model).resolve()) if model != "toy" and Path(model).exists() else model


def _find_commit(model, revision: str | None, file: str) -> str | None:
    """The commit of a repository on the hub; None of a folder or a file here."""
    return None if Path(model).exists() else fetch(model, (file,), revision).name


def _image_size(model, size: int | None) -> int:
    """`size`, or else the side in pixels of the images that the model was trained on."""
    if Path(model).is_file():
        unet, vae = UNetConfig(), VAEConfig()
    else:
        folder = fetch(model, ("unet/config.json", "vae/config.json"))
        unet = read_model_config(UNetConfig, folder / "unet" / "config.json")
        vae = read_model_config(VAEConfig, folder / "vae" / "config.json")
    size = unet.sample_size * vae.factor if size is None else size
    if size < vae.factor or size % vae.factor:
        raise ValueError(f"--size is {size}; allowed: multiples of {vae.factor}")
    return size


def _plan_splits(source: Manifest, out: Path, metadata: dict, rows: Mapping[str, np.ndarray]) -> list[SplitBuild]:
    def plan(name: str, numbers: np.ndarray) -> SplitBuild:
        def items(first: int, last: int):
            return source.rows(numbers[first:last])

        return SplitBuild(out / name, len(numbers), items, {"split": name, "rows": len(numbers), **metadata})

    return [plan(name, numbers) for name, numbers in rows.items()]


def _load_towers(metadata: dict) -> FeatureTowers:
    clip = CLIP.from_pretrained(clip_source(metadata["clip"]), revision=metadata["clip_revision"], dtype=np.float32)
    if metadata["diffusion"] is None:
        return FeatureTowers(clip)
    pipe = StableDiffusion.from_pretrained(
        model_source(metadata["diffusion"]), revision=metadata["diffusion_revision"], dtype=np.float32
    )
    return FeatureTowers(clip, pipe.vae, metadata["picture_size"])
