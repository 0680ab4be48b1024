"""Models that stay loaded and compiled, and a queue in front of them. It knows nothing of the page."""

import math
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from PIL import Image

from jaxsd.diffusion.images import prepare_image, prepare_mask
from jaxsd.diffusion.pipeline import strength_of, to_pil
from jaxsd.generation.drawing import batch_size
from jaxsd.recipes.recipe import Recipe, attach_recipe
from jaxsd.runtime.bundled import TOY_SAMPLES
from jaxsd.runtime.progress import Progress, counted
from jaxsd.runtime.sharding import padded_batches
from jaxsd.sound_to_image import Conditioning, LoadedSound, SoundToImage, image_keys, load_sounds

SEEDS = 2**32
UNEXPECTED = "the image could not be drawn; the log of the server says why"
IMAGE_STOPPED = "the image was stopped"


@dataclass(frozen=True)
class ServiceLimits:
    """What the service takes.

    queue: images that wait or are drawn. batch: images that a device draws at a time. steps, pixels, characters: of an
    image and of each of its texts. seconds, megabytes: of an uploaded sound, and of any uploaded file.
    """

    queue: int = 32
    batch: int = 4
    steps: int = 100
    pixels: int = 512 * 512
    characters: int = 500
    seconds: int = 60
    megabytes: int = 20

    def __post_init__(self):
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} is {value}; allowed: 1 or more")


@dataclass(frozen=True, eq=False)
class ImageRequest:
    """One image that is asked for.

    sound: the sound, or None. text: the prompt, or "". alpha: the share of the text beside a sound. encoders, weights:
    names of the service's encoders (None: its first) and a number for each (None: all alike). image, mask, strength: an
    image to start from, what of it is painted anew, and how little is left of it. The rest is that of
    `StableDiffusion.__call__`; None is what the model suggests.
    """

    sound: LoadedSound | None = None
    text: str = ""
    alpha: float = 0.5
    encoders: Sequence[str] | None = None
    weights: Sequence[float] | None = None
    negative: str = ""
    image: Image.Image | None = None
    mask: Image.Image | None = None
    strength: float | None = None
    seed: int = 0
    guidance: float | None = None
    steps: int | None = None
    sampler: str | None = None
    height: int | None = None
    width: int | None = None


class ImageUpdate(NamedTuple):
    """How far an image is.

    ahead: images that are drawn before it. done, steps: its denoising steps. image: a preview, the image where
    `finished`, or None before the first step.
    """

    ahead: int
    done: int
    steps: int
    image: Image.Image | None
    finished: bool


@dataclass(eq=False)
class ImageJob:
    """A request in the queue. `done`, `latents`, `image` and `error` are written under the service's lock.

    sampling: keyword arguments of `StableDiffusion.__call__`. recipe: what the image will carry. steps: how many are
    run, fewer with an image.
    """

    service: "ImageService"
    request: ImageRequest
    sampling: dict[str, Any]
    recipe: Recipe
    steps: int
    done: int = 0
    latents: np.ndarray | None = None
    image: Image.Image | None = None
    error: str | None = None

    def fits(self, other: "ImageJob") -> bool:
        """Whether both can be drawn in one batch."""
        starts = [(job.request.image is None, job.request.mask is None) for job in (self, other)]
        return self.sampling == other.sampling and starts[0] == starts[1]

    @property
    def finished(self) -> bool:
        return self.image is not None or self.error is not None

    def updates(self) -> Iterator[ImageUpdate]:
        """What changes until the image is there; who reads slowly misses some of it and slows nothing down.

        Raises ValueError, with the sentence for the user, where the image fails, and ImageStopped where it is stopped.
        """
        changed, seen = self.service.changed, None
        while True:
            with changed:
                changed.wait_for(lambda: self._state() != seen)  # noqa: B023 - it is called before `seen` changes
                seen = self._state()
                ahead, latents = self.service.ahead_of(self), self.latents
            self._raise_error()
            preview = None if latents is None else self.service.preview(latents)
            yield ImageUpdate(ahead, self.done, self.steps, self.image or preview, self.image is not None)
            if self.image is not None:
                return

    def result(self) -> Image.Image:
        """Wait for the image. Raises ValueError as `updates` does."""
        with self.service.changed:
            self.service.changed.wait_for(lambda: self.finished)
        self._raise_error()
        assert self.image is not None
        return self.image

    def stop(self):
        """Leave the queue; an image that is being drawn is dropped, and its batch ends where nobody waits for it."""
        self.service.finish(self, error=IMAGE_STOPPED)

    def _raise_error(self):
        if self.error is not None:
            raise (ImageStopped if self.error == IMAGE_STOPPED else ValueError)(self.error)

    def _state(self):
        return self.service.ahead_of(self), self.done, self.finished


class ImageStopped(ValueError):
    """Who asked for the image stopped it."""


class _NobodyWaits(Exception):
    """Every image of the batch was stopped."""


@dataclass(eq=False)
class ImageService:
    """Draws what is asked for, one batch at a time: requests of equal sampling that wait together are one batch.

        with ImageService(model) as service:
            image = service.submit(ImageRequest(clip)).result()

    model: its encoders are those that a request may name.
    """

    model: SoundToImage
    limits: ServiceLimits = field(default_factory=ServiceLimits)

    def __post_init__(self):
        self.changed = threading.Condition()
        self.jobs: list[ImageJob] = []  # those that wait, in their order, after those that are being drawn
        self.drawn: list[ImageJob] = []  # those of `jobs` that are being drawn
        self.closed = False
        self.preview_weights: np.ndarray | None = None
        self._worker = threading.Thread(target=self._work, name="images", daemon=True)

    def __enter__(self):
        self._worker.start()
        return self

    def __exit__(self, *_):
        """Stop what waits and end the worker."""
        with self.changed:
            self.closed = True
            for job in list(self.jobs):
                self.finish(job, error="the server is stopping")
            self.changed.notify_all()
        self._worker.join()

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) in pixels that images may have: few, for each is compiled and stays in memory."""
        side = self.model.pipe.unet.config.sample_size * self.model.pipe.vae.config.factor
        shapes = ((side, side), (side, 3 * side // 2), (3 * side // 2, side), (2 * side, 2 * side))
        return [shape for index, shape in enumerate(shapes) if not index or math.prod(shape) <= self.limits.pixels]

    def submit(self, request: ImageRequest) -> ImageJob:
        """Put a request into the queue. Raises ValueError with one sentence where it is not taken."""
        job = self._make_job(request)
        with self.changed:
            if self.closed:
                raise ValueError("the server is stopping")
            if len(self.jobs) >= self.limits.queue:
                raise ValueError(
                    f"the queue is full, {counted(len(self.jobs), 'image')} before yours; try again in a while"
                )
            self.jobs.append(job)
            self.changed.notify_all()
        return job

    def ahead_of(self, job: ImageJob) -> int:
        """How many images come before that of `job`; none before one that is being drawn or is finished."""
        return self.jobs.index(job) if job in self.jobs and job not in self.drawn else 0

    def finish(self, job: ImageJob, *, image: Image.Image | None = None, error: str | None = None):
        """Take a job out of the queue with its image or an error; what has finished stays as it is."""
        with self.changed:
            if not job.finished:
                job.image, job.error, job.latents = image, error, None
                self.jobs.remove(job)
                self.changed.notify_all()

    def preview(self, latents: np.ndarray) -> Image.Image | None:
        """What latents (height, width, channels) look like: a linear map to colors, of the size of the image."""
        if self.preview_weights is None:
            return None
        colors = np.concatenate([latents, np.ones_like(latents[..., :1])], axis=-1) @ self.preview_weights
        small = Image.fromarray(np.round(255 * colors.clip(0, 1)).astype(np.uint8))
        factor = self.model.pipe.vae.config.factor
        return small.resize((small.width * factor, small.height * factor), Image.Resampling.BICUBIC)

    def warm_up(self):
        """Compile what a request of default sampling runs, and fit the map of the previews."""
        sounds = load_sounds(sorted(TOY_SAMPLES.glob("*.wav")))
        sizes = sorted({_padded(count) for count in range(1, self.limits.batch * jax.local_device_count() + 1)})
        with Progress("warming up", len(self.model.encoders) + len(sizes)) as progress:
            for done, name in enumerate(self.model.encoders, 1):
                with progress.status(name):
                    self.model.encode_with(name, np.zeros((1, 16_000), np.int16))
                progress.advance(done)
            latents, colors = [], []
            for done, size in enumerate(sizes, len(self.model.encoders) + 1):
                loaded = [sounds[index % len(sounds)] if self.model.encoders else None for index in range(size)]
                jobs = [self._make_job(ImageRequest(sound, "a sound")) for sound in loaded]
                with progress.status(f"{size} at a time"):
                    images, last = self._denoise(jobs, [self._encode(job) for job in jobs])
                    to_pil(images)  # it compiles what checks them
                latents.append(last)
                colors.append(_area_mean(images, last.shape[1:3]))
                progress.advance(done)
        self.preview_weights = _fit_colors(np.concatenate(latents), np.concatenate(colors))

    def _make_job(self, request: ImageRequest) -> ImageJob:
        """A request with all its sampling. Raises ValueError where it is not taken."""
        if request.sound is None and not request.text.strip():
            raise ValueError("there is neither a sound nor a text; give one of them, or both")
        if request.sound is not None and not self.model.encoders:
            raise ValueError("this server has no audio encoder; give a text without a sound")
        for name in ("text", "negative"):
            if (length := len(getattr(request, name))) > self.limits.characters:
                raise ValueError(f"{name} has {length} characters; allowed: up to {self.limits.characters}")
        if not 0 <= request.seed < SEEDS:
            raise ValueError(f"seed is {request.seed}; allowed: whole numbers from 0 to {SEEDS - 1}")
        if not 0 <= request.alpha <= 1:
            raise ValueError(f"alpha is {request.alpha}; allowed: 0 to 1, the share of the text")
        model = self._with_its_encoders(request)
        defaults = self.model.sampling_defaults(image=request.image is not None)
        guidance = defaults.guidance if request.guidance is None else request.guidance
        steps = defaults.steps if request.steps is None else request.steps
        if not math.isfinite(guidance):
            raise ValueError(f"guidance is {guidance}; allowed: a finite number")
        if not 1 <= steps <= self.limits.steps:
            raise ValueError(f"steps is {steps}; allowed: 1 to {self.limits.steps}")
        height, width = request.height or self.sizes[0][0], request.width or self.sizes[0][1]
        if (height, width) not in self.sizes:
            sizes = ", ".join(f"{width} x {height}" for height, width in self.sizes)
            raise ValueError(f"the size is {width} x {height}; allowed: {sizes}")
        if request.mask is not None and request.image is None:
            raise ValueError("there is a mask and no image; give the image that it covers")
        strength = strength_of(request.image, request.mask, request.strength)
        table = self.model.pipe.sampler_table(steps, request.sampler, strength)
        sampling = {
            "guidance": guidance,
            "steps": steps,
            "sampler": request.sampler,
            "height": height,
            "width": width,
            "strength": request.strength,
        }
        (recipe,) = model.recipes(
            [request.sound.record] if request.sound is not None else [],
            [request.text] if request.text.strip() else [],
            alpha=request.alpha,
            negative=request.negative,
            seed=request.seed,
            image=request.image,
            mask=request.mask,
            **sampling,
        )
        return ImageJob(self, request, sampling, recipe, len(table.rows()))

    def _with_its_encoders(self, request: ImageRequest) -> SoundToImage:
        """The service's model with the encoders of a request."""
        names = list(self.model.encoders)[:1] if request.encoders is None else request.encoders
        if request.sound is not None and not names:
            raise ValueError("no encoder is chosen; choose one or several")
        return self.model.with_encoders(names, request.weights)

    def _encode(self, job: ImageJob) -> Conditioning:
        request = job.request
        return self._with_its_encoders(request).encode(
            None if request.sound is None else request.sound.clip.samples,
            [request.text] if request.text.strip() else [],
            alpha=request.alpha,
            negative=request.negative,
            unconditional="text" if self.model.is_guided(job.sampling["guidance"]) else None,
        )

    def _work(self):
        while True:
            with self.changed:
                self.drawn = []
                self.changed.wait_for(lambda: self.jobs or self.closed)
                if self.closed:
                    return
                self.drawn = self._next_batch()
                self.changed.notify_all()
            try:
                self._draw(self.drawn)
            except _NobodyWaits:
                pass
            except ValueError as error:  # what the networks made is not finite
                self._fail(self.drawn, str(error))
            except Exception:  # the next batch is drawn all the same
                traceback.print_exc()
                self._fail(self.drawn, UNEXPECTED)

    def _next_batch(self) -> list[ImageJob]:
        """The job that has waited longest, and those after it with the same sampling."""
        first = self.jobs[0]
        most = self.limits.batch * jax.local_device_count()
        most = min(most, batch_size(self.model.pipe, first.sampling["height"], first.sampling["width"]))
        return [job for job in self.jobs if job.fits(first)][:most]

    def _draw(self, jobs: list[ImageJob]):
        """Draw a batch; a request that cannot be encoded fails alone."""
        drawn, conditionings = [], []
        for job in jobs:
            try:
                conditionings.append(self._encode(job))
                drawn.append(job)
            except ValueError as error:
                self.finish(job, error=str(error))
        if drawn:
            images, _ = self._denoise(drawn, conditionings)
            for job, image in zip(drawn, to_pil(images), strict=True):
                recipe = job.recipe.drawn(image, 0, _padded(len(drawn)))
                self.finish(job, image=attach_recipe(image, recipe))

    def _denoise(self, jobs: list[ImageJob], conditionings: list[Conditioning]) -> tuple[np.ndarray, np.ndarray]:
        """The images of a batch, which is filled up to a power of two, and their latents."""
        (indices, count), *_ = padded_batches(len(jobs), _padded(len(jobs)))
        first = jobs[0]
        sides = first.sampling["height"], first.sampling["width"]
        image = mask = None
        if first.request.image is not None:
            image = np.concatenate([prepare_image(jobs[index].request.image, *sides) for index in indices])
        if first.request.mask is not None:
            mask = np.concatenate([prepare_mask(jobs[index].request.mask, *sides) for index in indices])
        uncond = None
        if conditionings[0].uncond is not None:
            uncond = jnp.concatenate([conditionings[index].uncond for index in indices])
        last = None

        def on_step(done: int, steps: int, predicted: jax.Array):
            nonlocal last
            last = np.asarray(predicted)
            with self.changed:
                for job, latents in zip(jobs, last, strict=False):
                    if not job.finished:
                        job.done, job.latents = done, latents
                self.changed.notify_all()
                if all(job.finished for job in jobs):
                    raise _NobodyWaits

        images = self.model.pipe(
            jnp.concatenate([conditionings[index].cond for index in indices]),
            uncond,
            key=jnp.concatenate([image_keys(jobs[index].request.seed, [0]) for index in indices]),
            image=image,
            mask=mask,
            on_step=on_step,
            **first.sampling,
        )
        assert last is not None  # there is a step at least
        return np.asarray(images)[:count], last[:count]

    def _fail(self, jobs: list[ImageJob], sentence: str):
        for job in jobs:
            self.finish(job, error=sentence)


def _padded(images: int) -> int:
    """How many images a batch is filled up to: a power of two, so that few programs compile."""
    return 1 << (images - 1).bit_length()


def _area_mean(images: np.ndarray, shape: tuple[int, ...]) -> Float[np.ndarray, "batch height width 3"]:
    """Images at the size of their latents."""
    batch, height, width, _ = images.shape
    return images.reshape(batch, shape[0], height // shape[0], shape[1], width // shape[1], 3).mean(axis=(2, 4))


def _fit_colors(latents: np.ndarray, colors: np.ndarray) -> Float[np.ndarray, "inputs 3"]:
    """Least squares from latents and a constant to colors."""
    inputs = np.concatenate([latents, np.ones_like(latents[..., :1])], axis=-1).reshape(-1, latents.shape[-1] + 1)
    return np.linalg.lstsq(inputs, colors.reshape(-1, 3), rcond=None)[0].astype(np.float32)
