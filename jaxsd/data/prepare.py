"""A manifest of sounds, images and captions -> data sets with CLIP's features, ready to train on."""

import hashlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxsd.audio import RATE
from jaxsd.clip.pipeline import CLIP
from jaxsd.clip.tokens import TOKENIZER_FILES
from jaxsd.data.build import AHEAD, SplitBuild, build, is_built
from jaxsd.data.columns import METADATA, SPLITS, ColumnType, open_columns, read_metadata
from jaxsd.data.decode import decode_rows
from jaxsd.data.executors import choose_executor
from jaxsd.data.features import FeatureTowers
from jaxsd.data.layouts import read_source
from jaxsd.data.manifest import Manifest, ManifestRow, draw_splits
from jaxsd.diffusion.loading import load_vae, read_unet_config, read_vae_config
from jaxsd.pretrained.hub import fetch
from jaxsd.pretrained.weights import WEIGHTS_SUFFIXES
from jaxsd.runtime.bundled import clip_source, model_source
from jaxsd.runtime.progress import counted

SKIPPED = "skipped.csv"
DECODED_COLUMNS = {"audio": ColumnType(np.int16, (RATE,)), "row": ColumnType(np.int64, ())}
CLASS_COLUMN = {"class": ColumnType(np.int32, ())}
VAE_KEYS = ("vae", "vae_revision", "vae_sha256")
LATENT_KEYS = ("diffusion", "diffusion_revision", "diffusion_sha256", *VAE_KEYS, "picture_size")
FEW = 8  # examples of a split


def prepare_dataset(
    source,
    out,
    *,
    layout: str | None = None,
    clip: str,
    revision: str | None = None,
    variant: str | None = None,
    tokenizer: str | None = None,
    diffusion: str | None = None,
    vae: str | None = None,
    size: int | None = None,
    validation: str | None = None,
    test: str | None = None,
    seed: int = 0,
    max_bad: float = 0.05,
    workers: int | None = None,
    ray: str | None = None,
) -> bool:
    """Make the splits `out`/train, /validation and /test of a manifest's rows, or what is left of them to make.

    Every process of `jax.distributed` does its share of one `out` on a shared file system.

    Args:
        source: a manifest file, or a file or folder in another layout of `jaxsd.data.layouts`.
        out: folder of the data set.
        layout: the name of that layout; by default it is recognized.
        clip: the CLIP whose features are stored: "toy", a folder or a Hugging Face id.
        revision: branch, tag or commit of that CLIP on the hub.
        variant: part of the file names of the weights of that CLIP and of the VAE, such as "fp16".
        tokenizer: a folder or repository in place of that CLIP's own tokenizer.
        diffusion: the Stable Diffusion whose VAE's latents of the images are stored too; None for no latents.
        vae: a folder, repository or file with a VAE in place of that model's own.
        size: the side in pixels of the images that become latents (that which the model was trained on).
        validation, test: rows of these splits, as in `draw_splits`.
        seed: of the splits.
        max_bad: the share of the rows that may be bad. Bad rows are left out and listed in `out`/skipped.csv.
        workers: processes that read files (one a core); 0 reads in this process.
        ray: the address of a Ray cluster on which files are read and the towers run, as `RayExecutor` takes it;
            `workers` is then of each of its actors.

    Returns:
        Whether there was anything to make.

    Raises:
        ValueError, FileNotFoundError: an argument or the manifest does not fit, `out` was made otherwise, or too many
            rows are bad.
    """
    if not 0 <= max_bad <= 1:
        raise ValueError(f"--max-bad is {max_bad}; allowed: a share from 0 to 1")
    if seed < 0:
        raise ValueError(f"--seed is {seed}; allowed: from 0")
    executor = choose_executor(workers, ray, AHEAD)
    source, out = read_source(source, layout), Path(out)
    if vae and not diffusion:
        raise ValueError("--vae says whose latents are stored, which needs --latents")
    if size is not None and not diffusion:
        raise ValueError("--size is of the images that become latents, which needs --latents")
    if size is not None and size < 1:
        raise ValueError(f"--size is {size}; allowed: pixels from 1")
    rows = draw_splits(source, validation, test, seed)
    for name in SPLITS:
        if name not in rows and (out / name).exists():
            raise ValueError(f"{out / name} is there, but no rows are for it; remove it or choose another --out")
    metadata = _describe_text(source, seed, clip, revision, variant, tokenizer)
    metadata |= _describe_latents(diffusion, vae, size) if diffusion else dict.fromkeys(LATENT_KEYS)
    splits = [_plan_split(source, out / name, metadata, numbers) for name, numbers in rows.items()]
    if is_built(splits):
        return False
    adding = any(split.added for split in splits)
    towers = _load_towers(metadata, with_clip=not adding)
    make = partial(
        decode_rows,
        folder=source.folder,
        clip_size=towers.clip_size,
        vae_size=towers.vae_size,
        open_file=source.open_file,
    )
    columns = {} if adding else DECODED_COLUMNS | (CLASS_COLUMN if source.classes else {})
    build(
        splits,
        make,
        columns,
        towers,
        give_up=partial(make, given_up="reading it ended the process"),
        executor=executor,
        skipped=None if adding else out / SKIPPED,
        max_bad=0.0 if adding else max_bad,
    )
    return True


def summarize(out) -> str:
    """What a prepared data set holds, in a sentence, and a warning for every split that is too small to tell much."""
    sizes, skipped = {}, 0
    for name in SPLITS:
        if (Path(out) / name / METADATA).is_file():
            metadata = read_metadata(Path(out) / name)
            sizes[name] = metadata["size"]
            skipped += metadata.get("skipped", 0)
    parts = ", ".join(f"{size:,} {name}" for name, size in sizes.items())
    bad = f"; {skipped:,} skipped, see {SKIPPED}" if skipped else ""
    few = [
        f"\n{name} has {counted(size, 'example')}: figures of so few say little (--{name})"
        for name, size in sizes.items()
        if name != "train" and size < FEW
    ]
    return f"{counted(sum(sizes.values()), 'example')}: {parts}{bad}{''.join(few)}"


def _describe_text(
    source: Manifest, seed: int, clip: str, revision: str | None, variant: str | None, tokenizer: str | None
) -> dict[str, Any]:
    """What `dataset.json` says of how the data set is made, latents apart."""
    return {
        "source": source.path.resolve().name,
        "source_sha256": source.digest,
        "seed": seed,
        "classes": source.classes or None,
        "clip": _portable_name(clip),
        "clip_revision": _find_commit(clip_source(clip), revision, "config.json"),
        "clip_sha256": _digest_weights(clip_source(clip)),
        "variant": variant,
        "tokenizer": _portable_name(tokenizer) if tokenizer else None,
        "tokenizer_sha256": _digest_tokenizer(tokenizer) if tokenizer else None,
    }


def _describe_latents(diffusion: str, vae: str | None, size: int | None) -> dict[str, Any]:
    """What `dataset.json` says of how the latents are made. `size` is by default what the model was trained at."""
    model = model_source(diffusion)
    revision = _find_commit(model, None, "unet/config.json")
    vae_config = read_vae_config(vae or model, None if vae else revision)
    size = read_unet_config(model, revision).sample_size * vae_config.factor if size is None else size
    if size < vae_config.factor or size % vae_config.factor:
        raise ValueError(f"--size is {size}; allowed: multiples of {vae_config.factor}")
    return {
        "diffusion": _portable_name(diffusion),
        "diffusion_revision": revision,
        "diffusion_sha256": None if vae else _digest_weights(model, "vae"),
        "vae": _portable_name(vae) if vae else None,
        "vae_revision": _find_commit(vae, None, "*config.json") if vae else None,
        "vae_sha256": _digest_weights(vae, "vae") if vae else None,
        "picture_size": size,
    }


def _digest_weights(model, part: str = "") -> str | None:
    """The SHA-256 of a local model's weights, or of one part of it. None of a repository, which has a commit."""
    folder = Path(model)
    if not folder.exists():
        return None
    if folder.is_file():
        return _digest_files([folder])
    inside = folder / part if (folder / part).is_dir() else folder
    return _digest_files(path for path in inside.iterdir() if path.suffix in WEIGHTS_SUFFIXES)


def _digest_tokenizer(tokenizer: str) -> str:
    """The SHA-256 of a tokenizer's files."""
    folder = fetch(tokenizer, TOKENIZER_FILES)
    return _digest_files(path for path in folder.iterdir() if path.name in TOKENIZER_FILES)


def _digest_files(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _portable_name(model: str) -> str:
    """A name of the model that holds in any folder."""
    return str(Path(model).resolve()) if model != "toy" and Path(model).exists() else model


def _find_commit(model, revision: str | None, file: str) -> str | None:
    """The commit of a repository on the hub; None of a folder or a file here."""
    return None if Path(model).exists() and revision is None else fetch(model, (file,), revision).name


def _plan_split(source: Manifest, folder: Path, metadata: dict[str, Any], numbers: np.ndarray) -> SplitBuild:
    """The build of the rows of these numbers, or that of the latents of a split that has all else."""
    metadata = {"split": folder.name, "rows": len(numbers), **metadata}
    added = ()
    if (folder / METADATA).is_file():
        columns = open_columns(folder)
        if metadata["diffusion"] is None:  # a split that has latents too is as good
            metadata = {key: value for key, value in metadata.items() if key not in LATENT_KEYS}
        elif "latents" not in columns and "row" in columns:
            numbers, added = np.asarray(columns["row"]), LATENT_KEYS

    def items(first: int, last: int) -> list[ManifestRow]:
        return source.rows(numbers[first:last])

    return SplitBuild(folder, len(numbers), items, metadata, added)


def _load_towers(metadata: dict[str, Any], *, with_clip: bool) -> FeatureTowers:
    clip = None
    if with_clip:
        clip = CLIP.from_pretrained(
            clip_source(metadata["clip"]),
            revision=metadata["clip_revision"],
            variant=metadata["variant"],
            tokenizer=metadata["tokenizer"],
            dtype=np.float32,
        )
    if metadata["diffusion"] is None:
        return FeatureTowers(clip)
    if metadata["vae"]:
        vae = load_vae(metadata["vae"], np.float32, metadata["vae_revision"])
    else:
        model = model_source(metadata["diffusion"])
        vae = load_vae(model, np.float32, metadata["diffusion_revision"], metadata["variant"])
    return FeatureTowers(clip, vae, metadata["picture_size"])
