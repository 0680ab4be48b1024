"""A manifest of sounds, pictures and captions -> data sets with CLIP's features, ready to train on."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from jaxsd.audio import RATE
from jaxsd.bundled import clip_source, model_source
from jaxsd.clip.pipeline import CLIP
from jaxsd.data.build import SplitBuild, all_there, build
from jaxsd.data.columns import SPLITS, Kind
from jaxsd.data.decode import decode_entries
from jaxsd.data.features import FeatureTowers
from jaxsd.data.manifest import Manifest, draw_splits, read_manifest
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.diffusion.unet import UNetConfig
from jaxsd.diffusion.vae import VAEConfig
from jaxsd.pretrained.hub import fetch

SKIPPED = "skipped.csv"
DECODED: dict[str, Kind] = {"audio": (np.int16, (RATE,)), "row": (np.int64, ())}


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
    """Make `out`/train, /validation and /test of the rows of `manifest`, or what is left of it to make.

    `clip` and `diffusion` are "toy", folders or Hugging Face ids. With `diffusion` the VAE's latents of the pictures,
    cropped to `size` pixels (by default those of the model), are stored too. `validation` and `test` are as in
    `draw_splits`. `workers` processes (by default one a core) read files. Rows that cannot be read are left out and
    listed in `out`/skipped.csv. Every process of `jax.distributed` does its share of one `out` on a shared file system.

    Returns whether there was anything to make. Raises ValueError or FileNotFoundError where an argument or the manifest
    does not fit, `out` was made otherwise, or more than the share `max_bad` of the rows is bad.
    """
    if not 0 <= max_bad <= 1:
        raise ValueError(f"--max-bad is {max_bad}; allowed: a share from 0 to 1")
    source = read_manifest(manifest)
    about = _about(source, clip, revision, diffusion, size, seed)
    rows = draw_splits(source, validation, test, seed)
    splits = _splits(source, Path(out), about, rows)
    for name in SPLITS:
        if name not in rows and (Path(out) / name).exists():
            raise ValueError(f"{Path(out) / name} is there, but no rows are for it; remove it or choose another --out")
    if all_there(splits):
        return False
    towers = _load_towers(about)
    make = partial(decode_entries, folder=source.path.parent, clip_size=towers.clip_size, vae_size=towers.vae_size)
    build(
        splits,
        make,
        DECODED,
        towers,
        give_up=partial(make, given_up="reading it ended the process"),
        workers=workers,
        skipped=Path(out) / SKIPPED,
        max_bad=max_bad,
    )
    return True


def _about(source: Manifest, clip: str, revision: str | None, diffusion: str | None, size: int | None, seed: int):
    """What `dataset.json` says of how the data set was made."""
    model = None if diffusion is None else model_source(diffusion)
    return {
        "source": source.path.name,
        "source_sha256": source.digest,
        "seed": seed,
        "clip": _named(clip),
        "clip_revision": _commit(clip_source(clip), revision, "config.json"),
        "diffusion": model and _named(diffusion),
        "diffusion_revision": model and _commit(model, None, "unet/config.json"),
        "picture_size": model and _picture_size(model, size),
    }


def _named(model: str) -> str:
    """A name of the model that holds in any folder."""
    return str(Path(model).resolve()) if model != "toy" and Path(model).exists() else model


def _commit(model, revision: str | None, file: str) -> str | None:
    """The commit of a repository on the hub; None of a folder or a file here."""
    return None if Path(model).exists() else fetch(model, (file,), revision).name


def _picture_size(model, size: int | None) -> int:
    """`size`, or else the side in pixels of the pictures that the model was trained on."""
    if Path(model).is_file():
        unet, vae = UNetConfig(), VAEConfig()
    else:
        folder = fetch(model, ("unet/config.json", "vae/config.json"))
        unet, vae = UNetConfig.read(folder / "unet" / "config.json"), VAEConfig.read(folder / "vae" / "config.json")
    size = unet.sample_size * vae.factor if size is None else size
    if size < vae.factor or size % vae.factor:
        raise ValueError(f"--size is {size}; allowed: multiples of {vae.factor}")
    return size


def _splits(source: Manifest, out: Path, about: dict, rows: Mapping[str, np.ndarray]) -> list[SplitBuild]:
    def split(name, places):
        def items(first, last):
            return source.entries(places[first:last])

        return SplitBuild(out / name, len(places), items, {"split": name, "rows": len(places), **about})

    return [split(name, places) for name, places in rows.items()]


def _load_towers(about: dict) -> FeatureTowers:
    clip = CLIP.from_pretrained(clip_source(about["clip"]), revision=about["clip_revision"], dtype=np.float32)
    if about["diffusion"] is None:
        return FeatureTowers(clip)
    pipe = StableDiffusion.from_pretrained(
        model_source(about["diffusion"]), revision=about["diffusion_revision"], dtype=np.float32
    )
    return FeatureTowers(clip, pipe.vae, about["picture_size"])
