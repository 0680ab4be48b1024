"""Draws the images of a study: batch by batch, what is not there yet."""

import io
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jaxsd.diffusion.pipeline import strength_of, to_pil
from jaxsd.generation.drawing import batch_size
from jaxsd.recipes.recipe import Recipe, attach_recipe, hash_modules, save_png
from jaxsd.runtime.files import check_output_folder, lock_folder, naming, read_json, write_json
from jaxsd.runtime.progress import Progress, counted
from jaxsd.runtime.sharding import examples_at_once, local_mesh, padded_batches
from jaxsd.sound_to_image import Conditioning, SoundToImage, image_keys
from jaxsd.study.inputs import StudyInputs
from jaxsd.study.plan import RANDOM_EMBEDDINGS, TEXT_ALONE, StudyImage, study_images

STUDY_JSON = "study.json"
KEPT_CONDITIONINGS = 256  # in memory: those of the sounds that are drawn next
CALIBRATION_STEPS, CALIBRATION_RUNS = 4, 3


@dataclass(frozen=True, eq=False)
class Study:
    """A study in a folder: what is drawn, how, and where it goes.

    conditionings: the encoders of each, by its name. sampling: keyword arguments of `StableDiffusion.__call__` in place
    of the model's own. copies: images of each input under each conditioning and mode.
    """

    folder: Path
    inputs: StudyInputs
    model: SoundToImage
    conditionings: Mapping[str, Sequence[str]]
    sampling: Mapping[str, Any]
    copies: int = 2
    seed: int = 0
    unconditional: str = "text"

    def images(self) -> list[StudyImage]:
        """All images of the study, drawn or not."""
        return study_images(self.inputs, self.conditionings, self.copies)

    def is_drawn(self, image: StudyImage) -> bool:
        return (self.folder / image.path).is_file()

    def sampling_of(self, with_image: bool) -> dict[str, Any]:
        """The guidance, the steps and the rest of the images that start from noise alone, or from an image."""
        defaults = self.model.sampling_defaults(image=with_image)
        sampling = {"guidance": defaults.guidance, "steps": defaults.steps} | dict(self.sampling)
        if not with_image:
            sampling.pop("strength", None)
        return sampling

    def steps_run(self, with_image: bool) -> int:
        """How many steps of the sampler an image takes."""
        sampling = self.sampling_of(with_image)
        strength = strength_of(True, None, sampling.get("strength")) if with_image else None
        return len(self.model.pipe.sampler_table(sampling["steps"], sampling.get("sampler"), strength).rows())

    @property
    def batch(self) -> int:
        """Images that are drawn at once: always as many, so that one program serves and every pixel stays the same."""
        most = batch_size(self.model.pipe, self.sampling.get("height"), self.sampling.get("width"))
        return examples_at_once(local_mesh(most), most)

    def about(self) -> dict[str, Any]:
        """All that the pixels are a function of, for study.json."""
        pipe = self.model.pipe
        return {
            **self.inputs.digest(),
            "conditionings": {name: list(several) for name, several in self.conditionings.items()},
            "encoders": {name: hash_modules([encoder]) for name, encoder in self.model.encoders.items()},
            "model": hash_modules([pipe.unet, pipe.vae, pipe.text_encoder]),
            **self._changes(),
            "sampling": {mode: self.sampling_of(mode == "image") for mode in ("no image", "image")},
            "sampler": pipe.sampling.sampler or pipe.schedule.sampler,
            "unconditional": self.unconditional,
            "seed": self.seed,
            "copies": self.copies,
        }

    def _changes(self) -> dict[str, Any]:
        """What is applied beside the model's parameters, where something is."""
        recipe, changes = self.model.recipes()[0], {}
        if recipe.loras:
            changes["LoRAs"] = [[lora.sha256, lora.weight] for lora in recipe.loras]
        if recipe.textual_inversions:
            changes["textual inversions"] = [inversion.sha256 for inversion in recipe.textual_inversions]
        for name in ("clip_skip", "weighted_prompts"):
            if value := getattr(recipe, name):
                changes[name] = value
        return changes


def check_or_write_study(study: Study, *, write: bool = True) -> None:
    """Write study.json, if `write`. Raises ValueError where the folder holds another study, and names what differs."""
    path, about = study.folder / STUDY_JSON, study.about()
    check_output_folder(study.folder)
    if path.is_file():
        there = read_json(path)
        if different := [name for name in about | there if there.get(name) != about.get(name)]:
            raise ValueError(f"{study.folder} holds a study of other {', '.join(different)}; choose another --out")
        return
    if study.folder.is_dir() and (study.folder / "images").exists():
        raise ValueError(f"{study.folder} holds images of something else; choose another --out")
    if not write:
        return
    with lock_folder(study.folder, wait=True):
        if not path.is_file():
            write_json(path, about)


def draw_missing(study: Study, left: Sequence[StudyImage], shard: tuple[int, int] = (1, 1)) -> None:
    """Draw these images, which are this shard's.

    A batch is written once it is drawn, each file whole or not at all: who is stopped loses one batch. Raises
    ValueError where another process draws this shard.
    """
    if not left:
        return
    index, count = shard
    start, parts = time.monotonic(), study.folder / f".shard-{index}-of-{count}"
    with lock_folder(parts):
        for old in parts.glob("*.png"):  # of a process that was killed
            old.unlink()
        with Progress("study", len(left), unit="image", compiles=True) as progress:
            done = 0
            for batch in study_batches(study, left):
                drawn = draw_batch(study, batch)
                for image, pixels in zip(batch, drawn, strict=True):
                    _attach_recipe_of(study, image, pixels)
                    _write_image(pixels, parts / f"{os.getpid()}.png", study.folder / image.path)
                done += len(batch)
                progress.advance(done)
    with suppress(OSError):  # another process has just begun with this shard
        parts.rmdir()
    print(f"{counted(len(left), 'image')} in {time.monotonic() - start:.0f} s", file=sys.stderr)


def study_batches(study: Study, images: Sequence[StudyImage]) -> Iterator[list[StudyImage]]:
    """Batches of images that start from the same one, across sounds and conditionings."""
    groups: dict[str | None, list[StudyImage]] = {}
    for image in images:
        groups.setdefault(image.image, []).append(image)
    for group in groups.values():
        for first in range(0, len(group), study.batch):
            yield group[first : first + study.batch]


def draw_batch(study: Study, batch: Sequence[StudyImage], **changes: Any) -> list[Image.Image]:
    """The PIL images of a batch, all of which start from the same image. `changes` are changes of the sampling."""
    start = batch[0].image
    sampling = study.sampling_of(start is not None) | changes
    ((indices, wanted),) = padded_batches(len(batch), study.batch)
    filled = [batch[index] for index in indices]
    conditionings = [_conditioning_of(study, one, sampling["guidance"]) for one in filled]
    cond = jnp.concatenate([one.cond for one in conditionings])
    uncond = None
    if study.model.is_guided(sampling["guidance"]):
        uncond = jnp.concatenate([one.uncond for one in conditionings if one.uncond is not None])
    drawn = study.model.pipe(
        cond,
        uncond,
        key=image_keys(study.seed, [one.copy for one in filled]),
        image=None if start is None else study.inputs.images[start],
        **sampling,
    )
    return to_pil(np.asarray(drawn)[:wanted])


def _conditioning_of(study: Study, image: StudyImage, guidance: float) -> Conditioning:
    """The conditioning of one image, as `generate.py` makes it of the same sound and text."""
    if image.conditioning == RANDOM_EMBEDDINGS:
        return study.model.random(image_keys(study.seed, [image.copy]))
    unconditional = study.unconditional if study.model.is_guided(guidance) else None
    return _encode(study, image.conditioning, image.sound, image.with_text, unconditional)


@lru_cache(KEPT_CONDITIONINGS)
def _encode(study: Study, conditioning: str, sound: str, with_text: bool, unconditional: str | None) -> Conditioning:
    heard = study.inputs.sounds[sound]
    model = _model_of(study, conditioning)
    prompts = [heard.caption] if with_text else None
    clips = None if conditioning == TEXT_ALONE else heard.clip[None]
    return model.encode(clips, prompts, unconditional=unconditional)


def _attach_recipe_of(study: Study, image: StudyImage, pixels: Image.Image) -> None:
    recipe = _recipe_of(study, image._replace(copy=0))
    attach_recipe(pixels, recipe.drawn(pixels, image.copy, study.batch))


@lru_cache(KEPT_CONDITIONINGS)
def _recipe_of(study: Study, image: StudyImage) -> Recipe:
    """The recipe by which `generate.py` makes an image again, whatever its copy."""
    sounds, prompts = [], []
    if image.sound is not None:
        heard = study.inputs.sounds[image.sound]
        sounds = [] if image.conditioning == TEXT_ALONE else [heard.record]
        prompts = [heard.caption] if image.with_text else []
    (recipe,) = _model_of(study, image.conditioning).recipes(
        sounds,
        prompts,
        unconditional=study.unconditional,
        random=image.conditioning == RANDOM_EMBEDDINGS,
        seed=study.seed,
        image=None if image.image is None else study.inputs.images[image.image],
        **study.sampling_of(image.image is not None),
    )
    return recipe


@lru_cache
def _model_of(study: Study, conditioning: str) -> SoundToImage:
    """The encoders of a conditioning in front of the same Stable Diffusion."""
    names = study.conditionings.get(conditioning, ())
    model = SoundToImage({name: study.model.encoders[name] for name in names}, study.model.pipe)
    model.origin = study.model.origin
    return model


def _write_image(image: Image.Image, part: Path, path: Path) -> None:
    """Write a PNG file whole or not at all; a file that is there already is the same image."""
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_png(image, part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)


def estimate_seconds(study: Study, images: Sequence[StudyImage]) -> float:
    """How long these images take from here on, by a few short batches that are drawn and thrown away."""
    seconds = 0.0
    batches = list(study_batches(study, images))
    for with_image in (False, True):
        chosen = [batch for batch in batches if (batch[0].image is not None) == with_image]
        if not chosen:
            continue
        strength = strength_of(True, None, study.sampling.get("strength")) if with_image else None
        few = min(study.sampling_of(with_image)["steps"], int(np.ceil(CALIBRATION_STEPS / (strength or 1))))
        compiled = _timed_batch(study, chosen[0], few)
        runs = [_timed_batch(study, chosen[0], few) for _ in range(CALIBRATION_RUNS)]
        step = float(np.mean([run.step for run in runs]))
        around = float(np.mean([run.total - run.step * run.steps for run in runs]))
        seconds += len(chosen) * (around + step * study.steps_run(with_image))
        seconds += max(0.0, compiled.total - float(np.mean([run.total for run in runs])))
    return seconds + _encoding_seconds(study, images)


@dataclass(frozen=True)
class TimedBatch:
    """The seconds of a batch and of one of its steps, and how many steps it had."""

    total: float
    step: float
    steps: int


def _timed_batch(study: Study, batch: Sequence[StudyImage], steps: int) -> TimedBatch:
    times: list[float] = []
    begin = time.monotonic()
    images = draw_batch(study, batch, steps=steps, on_step=lambda *_: times.append(time.monotonic()))
    for image, pixels in zip(batch, images, strict=True):
        _attach_recipe_of(study, image, pixels)
        save_png(pixels, io.BytesIO())
    total = time.monotonic() - begin
    step = (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else total
    return TimedBatch(total, step, len(times))


def _encoding_seconds(study: Study, images: Sequence[StudyImage]) -> float:
    """How long the encoders take for all sounds and texts: the programs are compiled once, and then run."""
    unconditional = study.unconditional if study.model.is_guided(study.sampling_of(False)["guidance"]) else None
    wanted = {(one.conditioning, one.sound, one.with_text) for one in images if one.sound}
    seconds = 0.0
    for name, with_text in sorted({(name, with_text) for name, _, with_text in wanted}):
        sounds = sorted({sound for conditioning, sound, text in wanted if (conditioning, text) == (name, with_text)})
        times = []
        for sound in sounds[:2]:
            begin = time.monotonic()
            jax.block_until_ready(_encode.__wrapped__(study, name, sound, with_text, unconditional).cond)
            times.append(time.monotonic() - begin)
        seconds += times[0] + times[-1] * (len(sounds) - 1)
    return seconds
