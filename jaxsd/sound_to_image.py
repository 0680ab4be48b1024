"""Sound in, image out: audio encoders, averaged or weighted, in front of a Stable Diffusion."""

import copy
import hashlib
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int16, Key

import encoders
from encoders.spectrogram import TOKENS
from jaxsd.audio import (
    RATE,
    Clip,
    clip_from_samples,
    load_clip,
    open_sound,
    slide_clips,
    sound_from_samples,
    sound_seconds,
)
from jaxsd.diffusion.diffusers_names import SOUND_ARGUMENTS, refuse_unknown
from jaxsd.diffusion.loading import read_unet_config
from jaxsd.diffusion.pipeline import Images, StableDiffusion, are_the_same, strength_of
from jaxsd.diffusion.sampling_defaults import SamplingDefaults
from jaxsd.pretrained.precision import choose_dtype
from jaxsd.recipes.recipe import (
    InversionRecord,
    ModelRecord,
    Recipe,
    SoundRecord,
    attach_recipe,
    device_kind,
    hash_arrays,
    hash_file,
    hash_modules,
    image_record,
    package_versions,
    source_name,
)
from jaxsd.runtime.bundled import model_source, sound_source
from jaxsd.runtime.files import StoredFile
from jaxsd.runtime.progress import counted
from jaxsd.runtime.sharding import examples_at_once, local_mesh, map_batches, round_up

Audio = str | PathLike[str] | StoredFile | np.ndarray  # a file, the name of a sample, or samples

MOST_CLIPS = 16  # that an accelerator encodes at once; fewer are filled up (`round_up`), so that few programs compile
MOST_WINDOWS, SHORTEST_HOP = 600, 0.01  # of a sound that is slid over, unless a limit is given; seconds
Start = float | Sequence[float | None] | None  # where the second of each sound begins; None is the loudest
UNCONDITIONAL = ("text", "silence")
RANDOM_STREAM = 77  # folded into an image's key for its random embeddings, so that they are not its noise
# The paper's guidance and steps, without and with an image to start from (arXiv 2509.09717, section on generation).
PAPER_SAMPLING = {False: (7.5, 100), True: (10.0, 200)}


class Conditioning(NamedTuple):
    """What the U-Net attends to, and what guidance moves away from (None where guidance is 1): one for all, or each."""

    cond: Float[Array, "batch 77 width"]
    uncond: Float[Array, "_ 77 width"] | None


class LoadedSound(NamedTuple):
    """The second of a sound that is taken, and the record of it for a recipe."""

    clip: Clip
    record: SoundRecord


class SoundToImage:
    """Audio encoders and the Stable Diffusion that draws what they hear.

    The models stay loaded, and the programs stay compiled from one call to the next:

        model = SoundToImage.from_pretrained(["gemini", "grok"])
        images = model("dog.wav")  # (1, 64, 64, 3) float32 in [0, 1]
        images = model(["dog.wav", "waves.wav"], "at night", guidance=5.0, seed=1)

    The conditioning is the paper's (arXiv 2509.09717): the mean of the encoders' embeddings; with prompts, the mean of
    that and of the prompts' hidden states.

    encoders: the audio encoders by name. pipe: the Stable Diffusion. weights: the encoders' shares, which sum to 1.
    """

    def __init__(
        self, audio_encoders: Mapping[str, nnx.Module], pipe: StableDiffusion, weights: Sequence[float] | None = None
    ):
        """Put encoders in front of a pipeline.

        Args:
            audio_encoders: audio encoders by the name that errors call them; may be empty to draw from prompts alone.
            pipe: the Stable Diffusion.
            weights: one number of at least 0 for each encoder; their sum is scaled to 1. None weighs all alike.

        Raises:
            ValueError: the weights do not fit, or the embeddings of an encoder have not the width of the U-Net's
                cross-attention.
        """
        self.encoders, self.pipe = dict(audio_encoders), pipe
        self.weights = normalize_weights(weights, len(self.encoders), "encoder")
        for name, encoder in self.encoders.items():
            _refuse_other_width(name, encoder, pipe.unet.config.cross_attention_dim)
        self.origin: dict[str, str] = {}  # what it was loaded from and with, for recipes
        self._hashes: dict[str, tuple[list, str]] = {}

    def __repr__(self) -> str:
        encoders = "\n".join(
            f"  {weight:.0%} {name}: {encoder!r}"
            for weight, (name, encoder) in zip(self.weights, self.encoders.items(), strict=True)
        )
        return f"SoundToImage\n{encoders}\n  {self.pipe!r}"

    @classmethod
    def from_pretrained(
        cls,
        encoders: str | Sequence[str] = "gemini",
        model: str | Path = "toy",
        *,
        weights: Sequence[float] | None = None,
        revision: str | None = None,
        variant: str | None = None,
        tokenizer: str | Path | None = None,
        vae: str | Path | None = None,
        trust_code: bool = False,
        dtype: DTypeLike | None = None,
    ) -> "SoundToImage":
        """Load encoders and a Stable Diffusion.

        Args:
            encoders: names of bundled encoders, folders, or Hugging Face ids of trained ones; one, or several.
            model: "toy", a folder in diffusers' layout, a Hugging Face id, or a .safetensors file.
            weights: one number for each encoder (all alike).
            revision: the branch, tag or commit of the model on the hub.
            variant: part of the file names of the model's weights, as "fp16".
            tokenizer: a folder or Hugging Face id in place of the model's own tokenizer.
            vae: a folder or .safetensors file with a VAE in place of the model's own.
            trust_code: whether encoders that are not of this project may run the Python file that their folder names.
            dtype: float32, bfloat16 or float16; by default bfloat16 on accelerators and float32 on the CPU.

        Raises:
            FileNotFoundError: a file cannot be found or downloaded.
            ValueError: a file is damaged or of another model, or encoders and model do not fit each other.
        """
        encoders = [encoders] if isinstance(encoders, str) else encoders
        dtype = choose_dtype(dtype)
        width = read_unet_config(model_source(model), revision).cross_attention_dim
        for name in encoders:
            _check_encoder_config(name, str(model), width)
        pipe = StableDiffusion.from_pretrained(
            model_source(model), revision=revision, variant=variant, tokenizer=tokenizer, vae=vae, dtype=dtype
        )
        loaded = cls(_load_encoders(encoders, dtype, trust_code), pipe, weights)
        origin = {"model": model, "revision": revision, "variant": variant, "tokenizer": tokenizer, "vae": vae}
        loaded.origin = {name: source_name(value) for name, value in origin.items() if value is not None}
        return loaded

    def with_encoders(self, names: Sequence[str], weights: Sequence[float] | None = None) -> "SoundToImage":
        """The same model with some of its encoders; parameters and compiled programs are shared.

        Raises ValueError for a name that is none of them, or where the weights do not fit.
        """
        if unknown := [name for name in names if name not in self.encoders]:
            raise ValueError(f"encoder is {unknown[0]!r}; allowed: {', '.join(self.encoders)}")
        chosen = copy.copy(self)
        chosen.encoders = {name: self.encoders[name] for name in names}
        chosen.weights = normalize_weights(weights, len(chosen.encoders), "encoder")
        return chosen

    def encode(
        self,
        audio: Audio | Sequence[Audio] | None = None,
        prompts: str | Sequence[str] | None = None,
        *,
        rate: int | None = None,
        start: Start = None,
        mix: bool = False,
        sound_weights: Sequence[float] | None = None,
        alpha: float = 0.5,
        negative: str = "",
        unconditional: str | None = "text",
    ) -> Conditioning:
        """The conditioning of sounds, of prompts, or of both together.

        Args:
            audio: sounds, one or several: files, names of sample sounds, or arrays as `load_clips` takes them.
            prompts: one prompt for all sounds, or one each; or prompts without sounds.
            rate: samples a second of the arrays in `audio`.
            start: where the second of each sound begins, in seconds, as `load_sounds` takes it (the loudest).
            mix: whether all sounds make one conditioning, the weighted mean of theirs.
            sound_weights: one number of at least 0 for each sound that is mixed; None weighs all alike.
            alpha: the share of the prompts where there are sounds too, from 0 to 1; 0.5 is the paper's mean.
            negative: the prompt that guidance moves away from.
            unconditional: "text": guidance moves away from `negative` alone. "silence": it moves away from a silent
                clip, combined as in the paper with `negative` where there are prompts or a `negative`. None: there is
                no guidance.

        Raises:
            FileNotFoundError: there is no such sound.
            ValueError: a sound cannot be read, the numbers do not fit, or there is neither a sound nor a prompt.
        """
        if unconditional not in (*UNCONDITIONAL, None):
            raise ValueError(f"unconditional is {unconditional!r}; allowed: {', '.join(UNCONDITIONAL)}")
        clips = None if audio is None else load_clips(audio, rate, start)
        prompts = [prompts] if isinstance(prompts, str) else list(prompts or ())
        if clips is None and not prompts:
            raise ValueError("there is neither a sound nor a prompt to make an image of")
        if sound_weights is not None and not mix:
            raise ValueError("sound_weights need mix=True (--mix)")
        images = 1 if mix or clips is None else len(clips)
        if clips is not None and len(prompts) not in (0, 1, images):
            raise ValueError(
                f"{counted(len(prompts), 'prompt')} for {counted(images, 'sound')}; allowed: as many, or one for all"
            )
        with_silence = unconditional == "silence" and clips is not None
        audio_embeddings = silence = None
        if clips is not None:
            silent = np.zeros((int(with_silence), RATE), np.int16)
            embeddings = self.encode_audio(np.concatenate([silent, clips]))
            silence, audio_embeddings = embeddings[:1], embeddings[len(silent) :]
            if mix:
                audio_embeddings = weighted_mean(audio_embeddings[:, None], sound_weights, "sound")
        text_embeddings = self.pipe.encode_text(prompts) if prompts else None
        cond = combine_embeddings(audio_embeddings, text_embeddings, alpha)
        if with_silence:
            negative_embeddings = self.pipe.encode_text([negative]) if prompts or negative else None
            return Conditioning(cond, combine_embeddings(silence, negative_embeddings, alpha))
        return Conditioning(cond, None if unconditional is None else self.pipe.encode_text([negative]))

    def encode_alphas(self, alphas: Sequence[float], *arguments: Any, **options: Any) -> list[Conditioning]:
        """The conditioning at each share of the prompts, from one encoding; the others are arguments of `encode`."""
        audio, text = (self.encode(*arguments, **options, alpha=alpha) for alpha in (0.0, 1.0))

        def at(alpha: float) -> Conditioning:
            uncond = audio.uncond
            if uncond is not None and options.get("unconditional") == "silence":
                uncond = combine_embeddings(uncond, text.uncond, alpha)
            return Conditioning(combine_embeddings(audio.cond, text.cond, alpha), uncond)

        return [at(alpha) for alpha in alphas]

    def is_guided(self, guidance: float | None = None) -> bool:
        """Whether anything is left of what guidance moves away from; None is the guidance that the model suggests."""
        return (self.sampling_defaults().guidance if guidance is None else guidance) != 1

    def sampling_defaults(self, image: bool = False) -> SamplingDefaults:
        """Guidance, steps and sampler where a call names none: what the model suggests or, where it suggests nothing,
        the paper's, which differ with an `image` to start from."""
        return sampling_or_papers(self.pipe.sampling, image)

    def encode_audio(self, clips: Int16[np.ndarray, "batch 16000"]) -> Float[Array, "batch 77 width"]:
        """The weighted mean of the encoders' embeddings. Raises ValueError where there is no encoder."""
        if not self.encoders:
            raise ValueError("there is no audio encoder to encode the sound with")
        embeddings = [jnp.asarray(self.encode_with(name, clips)) for name in self.encoders]
        return weighted_mean(jnp.stack(embeddings), self.weights, "encoder")

    def encode_with(self, name: str, clips: Int16[np.ndarray, "batch 16000"]) -> Float[np.ndarray, "batch 77 width"]:
        """The embeddings of one encoder."""
        size = examples_at_once(local_mesh(1), min(MOST_CLIPS, round_up(len(clips))))
        return map_batches(partial(_encode_clips, self.encoders[name]), clips, size)

    def random(self, keys: Key[Array, " batch"]) -> Conditioning:
        """The paper's random baseline: N(0, 1) in both halves, of one key for each image."""
        shape = (2, TOKENS, self.pipe.unet.config.cross_attention_dim)
        draw = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, RANDOM_STREAM), shape), out_axes=1)
        return Conditioning(*draw(keys))

    def recipes(
        self,
        sounds: Sequence[SoundRecord] = (),
        prompts: Sequence[str] = (),
        *,
        mix: bool = False,
        sound_weights: Sequence[float] | None = None,
        alpha: float = 0.5,
        negative: str = "",
        unconditional: str = "text",
        random: bool = False,
        sweep: str | None = None,
        slide: float | None = None,
        smooth: int | None = None,
        limit: int | None = None,
        seed: int = 0,
        image: Any = None,
        mask: Any = None,
        outpaint: Sequence[int] | None = None,
        strength: float | None = None,
        guidance: float | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        **sampling: Any,
    ) -> list[Recipe]:
        """The recipe of the image of each sound or prompt, as `encode` makes conditionings of them.

        The numbers of the images, how many are drawn at once and their size are left to who draws them.

        Args:
            sounds: the records of the sounds, as `load_sounds` gives them.
            prompts, mix, sound_weights, alpha, negative, unconditional: those of `encode`.
            random: whether the image is that of random embeddings.
            sweep: the sweep of a strip.
            slide, smooth, limit: those of a film, as a recipe has them.
            seed, image, mask, strength, guidance, steps, sampler: those of `__call__`.
            outpaint: by how many pixels the image is grown before, which takes the place of a mask.
            sampling: its `guidance_end`, `cache_interval`, `merge_tokens`, `control_image` and `control_scale`; others
                are left out.
        """
        defaults = self.sampling_defaults(image=image is not None)
        common = Recipe(
            self._record("model", self.origin.get("model"), (self.pipe.unet, self.pipe.vae, self.pipe.text_encoder)),
            encoders=tuple(
                self._record(f"encoder {name}", source_name(name), (encoder,), weight)
                for (name, encoder), weight in zip(self.encoders.items(), self.weights, strict=True)
            ),
            loras=tuple(
                ModelRecord(source_name(name), hash_arrays(lora.arrays()), lora.weight)
                for name, lora in self.pipe.loras.items()
            ),
            textual_inversions=tuple(
                InversionRecord(source_name(inversion.source), hash_arrays({token: inversion.vectors}), token)
                for token, inversion in self.pipe.textual_inversions.items()
            ),
            clip_skip=self.pipe.clip_skip,
            weighted_prompts=self.pipe.weighted_prompts,
            revision=self.origin.get("revision"),
            variant=self.origin.get("variant"),
            tokenizer=self.origin.get("tokenizer"),
            vae=self.origin.get("vae"),
            sound_weights=None if sound_weights is None else tuple(map(float, sound_weights)),
            alpha=alpha,
            negative=negative,
            unconditional=unconditional,
            random=random,
            sweep=sweep,
            slide=slide,
            smooth=smooth,
            limit=limit,
            image=image_record(image),
            mask=image_record(mask),
            outpaint=None if outpaint is None else tuple(outpaint),
            strength=strength_of(image, mask or outpaint, strength),
            guidance=defaults.guidance if guidance is None else guidance,
            guidance_end=sampling.get("guidance_end", 1.0),
            cache_interval=sampling.get("cache_interval", 1),
            merge_tokens=sampling.get("merge_tokens", 0.0),
            **self._control_records(sampling.get("control_image"), sampling.get("control_scale", 1.0)),
            steps=defaults.steps if steps is None else steps,
            sampler=sampler or defaults.sampler or self.pipe.schedule.sampler,
            seed=seed,
            dtype=jnp.dtype(self.pipe.unet.dtype).name,
            device=device_kind(),
            versions=package_versions(),
        )
        groups = [tuple(sounds)] if mix or not sounds else [(sound,) for sound in sounds]
        images = max(len(groups), len(prompts), 1)
        return [
            replace(
                common,
                sounds=groups[index % len(groups)],
                prompt=prompts[index % len(prompts)] if prompts else None,
            )
            for index in range(images)
        ]

    def _control_records(self, image: Any, scale: float) -> dict[str, Any]:
        """What a recipe says of a ControlNet and of the image that it sees."""
        if image is None or self.pipe.controlnet is None:
            return {}
        source = self.pipe.controlnet_source
        controlnet = self._record("controlnet", source and source_name(source), (self.pipe.controlnet,))
        return {"controlnet": controlnet, "control_image": image_record(image), "control_scale": scale}

    def _record(self, key: str, name: str | None, modules: Sequence[nnx.Module], weight: float = 1.0) -> ModelRecord:
        """The record of a model; its parameters are hashed again only where one has changed."""
        leaves = jax.tree.leaves([nnx.state(module) for module in modules])
        known, digest = self._hashes.get(key, ([], ""))
        if not are_the_same(known, leaves):
            digest = hash_modules(modules)
            self._hashes[key] = leaves, digest
        return ModelRecord(name, digest, weight)

    def __call__(
        self,
        audio: Audio | Sequence[Audio] | None = None,
        prompts: str | Sequence[str] | None = None,
        *,
        rate: int | None = None,
        start: Start = None,
        mix: bool = False,
        sound_weights: Sequence[float] | None = None,
        alpha: float = 0.5,
        negative: str = "",
        unconditional: str = "text",
        random: int = 0,
        seed: int = 0,
        num_images_per_prompt: int = 1,
        output_type: str = "jax",
        **sampling: Any,
    ) -> Images:
        """An image of each sound or prompt, float32 in [0, 1]; `generate.py` draws the same ones.

        Args:
            audio, prompts, rate, start, mix, sound_weights, alpha, negative, unconditional: those of `encode`.
            random: how many images of random embeddings to draw in place of sounds and prompts, the paper's baseline.
            seed: seeds the noise, which is the same for every image.
            num_images_per_prompt: images of each sound or prompt, as `--count` numbers them, which stand side by side.
            output_type: that of `StableDiffusion.__call__`. PIL images carry their recipe, which `recipe.save_png`
                writes into the file, unless `key` or `latents` are given.
            sampling: keyword arguments of `StableDiffusion.__call__`: guidance, steps, sampler, image, strength,
                height, width and others; `key` takes the place of the seed.

        Raises:
            FileNotFoundError, ValueError: those of `encode` and of `StableDiffusion.__call__`.
        """
        refuse_unknown("SoundToImage", sampling.keys() & SOUND_ARGUMENTS.keys(), SOUND_ARGUMENTS)
        defaults = self.sampling_defaults(image=sampling.get("image") is not None)
        sampling = {"guidance": defaults.guidance, "steps": defaults.steps} | sampling
        mixing: dict[str, Any] = {"mix": mix, "sound_weights": sound_weights, "alpha": alpha, "negative": negative}
        sounds: list[LoadedSound] = []
        prompts = [prompts] if isinstance(prompts, str) else list(prompts or ())
        if random:
            if audio is not None or prompts or num_images_per_prompt != 1:
                raise ValueError(
                    "random embeddings take the place of sounds and prompts, and random is how many; give one of them"
                )
            numbers = list(range(random))
            conditioning = self.random(image_keys(seed, numbers))
        else:
            sounds = [] if audio is None else load_sounds(audio, rate, start)
            clips = np.stack([sound.clip.samples for sound in sounds]) if sounds else None
            guided = self.is_guided(sampling["guidance"])
            conditioning = self.encode(clips, prompts, **mixing, unconditional=unconditional if guided else None)
            numbers = list(range(num_images_per_prompt)) * len(conditioning.cond)
            sampling["num_images_per_prompt"] = num_images_per_prompt
        drawn = {"key": image_keys(seed, numbers), "output_type": output_type, **sampling}
        images = self.pipe(*conditioning, **drawn)
        if isinstance(images, list) and not {"key", "latents"} & sampling.keys():
            records = [sound.record for sound in sounds]
            mixing |= {"unconditional": unconditional, "random": random > 0, "seed": seed}
            recipes = self.recipes(records, prompts, **mixing, **sampling)
            recipes = [recipe for recipe in recipes for _ in range(random or num_images_per_prompt)]
            for image, recipe, number in zip(images, recipes, numbers, strict=True):
                attach_recipe(image, recipe.drawn(image, number, len(images)))
        return images

    def slide(
        self,
        audio: Audio,
        prompt: str | None = None,
        *,
        hop: float = 0.5,
        smooth: int = 0,
        limit: int | None = None,
        rate: int | None = None,
        seed: int = 0,
        alpha: float = 0.5,
        negative: str = "",
        unconditional: str = "text",
        **sampling: Any,
    ) -> tuple[list[float], Images]:
        """An image of every second of a sound that begins `hop` seconds after the one before, all from the same noise.

        Args:
            audio, rate: one sound, as `encode` takes it.
            prompt, alpha, negative, unconditional: those of `encode`.
            hop, limit: those of `load_windows`.
            smooth: how many images are between two windows, of interpolated embeddings.
            seed, sampling: those of `__call__`.

        Returns:
            When the second of each image begins in the sound, in seconds, and the images.

        Raises:
            FileNotFoundError, ValueError: those of `load_windows` and `__call__`.
        """
        windows = load_windows(audio, hop, rate, limit)
        defaults = self.sampling_defaults(image=sampling.get("image") is not None)
        sampling = {"guidance": defaults.guidance, "steps": defaults.steps} | sampling
        cond, uncond = self.encode(
            np.stack([window.clip.samples for window in windows]),
            prompt,
            alpha=alpha,
            negative=negative,
            unconditional=unconditional if self.is_guided(sampling["guidance"]) else None,
        )
        cond = interpolate_embeddings(cond, smooth)
        times = [number * hop / (smooth + 1) for number in range(len(cond))]
        return times, self.pipe(cond, uncond, key=image_keys(seed, [0] * len(cond)), **sampling)


def sampling_or_papers(suggested: SamplingDefaults, image: bool) -> SamplingDefaults:
    """What a model suggests or, where it suggests nothing, the paper's guidance and steps."""
    return suggested if suggested != SamplingDefaults() else SamplingDefaults(*PAPER_SAMPLING[image])


@nnx.jit
def _encode_clips(
    encoder: nnx.Module, clips: Int16[np.ndarray | Array, "batch 16000"]
) -> Float[Array, "batch 77 width"]:
    """Compiled once for an encoder, whatever stands beside it."""
    return encoder(clips).astype(jnp.float32)  # pyright: ignore[reportCallIssue]


def load_clips(
    audio: Audio | Sequence[Audio], rate: int | None = None, start: Start = None
) -> Int16[np.ndarray, "batch 16000"]:
    """Sounds as clips of one second at 16 kHz, int16: the loudest second of each.

    The arguments and errors are those of `load_sounds`.
    """
    return np.stack([sound.clip.samples for sound in load_sounds(audio, rate, start)])


def load_sounds(audio: Audio | Sequence[Audio], rate: int | None = None, start: Start = None) -> list[LoadedSound]:
    """One second of each sound, with its record; of a longer sound, stderr says which second that is.

    Args:
        audio: one sound or several: files, names of sample sounds, or arrays of samples: with `rate`, (samples,) of any
            length, integers or floats in [-1, 1]; without it, int16 clips (16000,). A 2-D array is a batch of arrays.
        rate: samples a second of the arrays.
        start: where the second begins, in seconds: of all sounds or of each; None is the loudest second.

    Raises:
        FileNotFoundError, ValueError: a sound does not fit (also AudioError), or ends before `start`.
    """
    if isinstance(audio, str | PathLike | StoredFile):
        items: list[Audio] = [audio]
    elif isinstance(audio, np.ndarray):
        items = [audio] if audio.ndim == 1 else list(audio)
    else:
        items = list(audio)
    if not items:
        raise ValueError("audio is empty; allowed: at least one sound")
    starts = list(start) if isinstance(start, Sequence) else [start] * len(items)
    if len(starts) != len(items):
        raise ValueError(
            f"{counted(len(starts), 'start')} for {counted(len(items), 'sound')}; allowed: as many, or one for all"
        )
    return [_load_sound(item, rate, start) for item, start in zip(items, starts, strict=True)]


def load_windows(audio: Audio, hop: float, rate: int | None = None, limit: int | None = None) -> list[LoadedSound]:
    """The seconds of one sound that begin every `hop` seconds, the first `limit` of them.

    `audio` and `rate` are those of `load_sounds`. Raises what that raises, and ValueError where they are more than
    MOST_WINDOWS and there is no `limit`.
    """
    if not SHORTEST_HOP <= hop < math.inf:
        raise ValueError(f"the windows are {hop} s apart; allowed: from {SHORTEST_HOP}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; allowed: 1 or more")
    if isinstance(audio, np.ndarray):
        sound = sound_from_samples(_checked_clip(audio) if rate is None else audio, RATE if rate is None else rate)
        name, digest = None, hash_arrays({"samples": audio})
    else:
        path = audio if isinstance(audio, StoredFile) else sound_source(audio)
        sound, (name, digest) = open_sound(path), _identity(path)
    if limit is None:
        seconds = sound_seconds(sound)
        count = max(0, math.floor((seconds - 1) / hop + 1e-9)) + 1
        if count > MOST_WINDOWS:
            raise ValueError(
                f"{sound.name} lasts {seconds:.0f} s, which are {count:,} windows of a second, one each {hop:g} s; "
                f"allowed: up to {MOST_WINDOWS:,}, with --limit more: take longer steps, or a limit"
            )
    clips = slide_clips(sound, hop, limit or MOST_WINDOWS)
    return [LoadedSound(clip, SoundRecord(name, digest, clip.start)) for clip in clips]


def interpolate_embeddings(
    embeddings: Float[Array, "windows 77 width"], between: int
) -> Float[Array, "images 77 width"]:
    """Embeddings with `between` more from each to the next, evenly spaced on the line between them."""
    if between < 0:
        raise ValueError(f"there are {between} images between windows; allowed: 0 or more")
    shares = (jnp.arange(between + 1) / (between + 1))[None, :, None, None]
    before, after = embeddings[:-1, None], embeddings[1:, None]
    lines = (1 - shares) * before + shares * after
    return jnp.concatenate([lines.reshape(-1, *embeddings.shape[1:]), embeddings[-1:]])


def check_alpha(alpha: float) -> None:
    """Raise ValueError where a share is not from 0 to 1."""
    if not 0 <= alpha <= 1:  # true for NaN
        raise ValueError(f"alpha is {alpha}; allowed: 0 to 1, the share of the text")


def combine_embeddings(audio: Array | None, text: Array | None, alpha: float = 0.5) -> Float[Array, "batch 77 width"]:
    """alpha text + (1 - alpha) audio, where there are both; one of either may stand for all.

    The paper's mean is alpha = 1/2 (arXiv 2509.09717, section on generation). Raises ValueError for another alpha than
    0 to 1.
    """
    check_alpha(alpha)
    if audio is None or text is None:
        return jnp.asarray(text if audio is None else audio)
    return (1 - alpha) * audio + alpha * text


def weighted_mean(
    embeddings: Float[Array, "count batch 77 width"], weights: Sequence[float] | None, of: str
) -> Float[Array, "batch 77 width"]:
    """The mean of embeddings over the first axis, that of `of`; `weights` and `of` are those of `normalize_weights`."""
    shares = normalize_weights(weights, len(embeddings), of)
    return jnp.tensordot(jnp.asarray(shares), embeddings, axes=1, precision="highest")


def image_keys(seed: int, numbers: Iterable[int]) -> Key[Array, " images"]:
    """A key for each image, of the seed and of its number among those of one sound; number 0 has the seed's own."""
    key = jax.random.key(seed)
    return jnp.stack([jax.random.fold_in(key, number) if number else key for number in numbers])


def _load_sound(item: Audio, rate: int | None, start: float | None) -> LoadedSound:
    if isinstance(item, np.ndarray):
        clip = Clip(_checked_clip(item), 0.0) if rate is None else clip_from_samples(item, rate, start)
        _say_start("the array of samples", clip, start)
        return LoadedSound(clip, SoundRecord(None, hash_arrays({"clip": clip.samples}), clip.start))
    path = item if isinstance(item, StoredFile) else sound_source(item)
    clip = load_clip(path, start)
    _say_start(str(path), clip, start)
    return LoadedSound(clip, SoundRecord(*_identity(path), clip.start))


def _identity(path: Path | StoredFile) -> tuple[str | None, str]:
    """What a recipe calls a sound that is a file, and the file's hash; what came from standard input has no name."""
    if isinstance(path, StoredFile):
        return None, hashlib.sha256(path.data).hexdigest()
    return path.name, hash_file(path)


def _checked_clip(samples: np.ndarray) -> Int16[np.ndarray, "16000"]:
    if samples.dtype != np.int16 or samples.shape != (RATE,):
        raise ValueError(
            f"audio holds {samples.dtype} of shape {samples.shape}; without rate, an array must be an int16 clip of "
            f"shape ({RATE},)"
        )
    return samples


def _say_start(name: str, clip: Clip, asked: float | None) -> None:
    """Say on stderr which second of a longer sound is taken where nobody asked for one, and where it is silent."""
    if not clip.samples.any():
        print(f"{name}: the second that is taken is silent", file=sys.stderr)
    if clip.start and asked is None:
        minutes, seconds = divmod(clip.start, 60)
        print(f"{name}: the loudest second begins at {minutes:.0f}:{seconds:05.2f}", file=sys.stderr)


def _load_encoders(names: Sequence[str], dtype: jnp.dtype, trust_code: bool) -> dict[str, nnx.Module]:
    return {str(name): encoders.load(name, dtype=dtype, trust_code=trust_code) for name in names}


def normalize_weights(weights: Sequence[float] | None, count: int, of: str) -> list[float]:
    """Shares that sum to 1 of `count` things, which `of` calls "sound", say; None weighs all alike.

    Raises ValueError where the weights do not fit.
    """
    if weights is None:
        return [1 / max(count, 1)] * count
    weights = [float(weight) for weight in weights]
    if len(weights) != count:
        raise ValueError(f"{counted(len(weights), 'weight')} for {counted(count, of)}; allowed: as many")
    if not all(0 <= weight < np.inf for weight in weights) or not sum(weights):
        raise ValueError(f"weights are {weights}; allowed: numbers of at least 0, one of them above")
    total = sum(weights)
    return weights if math.isclose(total, 1) else [weight / total for weight in weights]  # shares stay what they are


def _check_encoder_config(name: str, model: str, width: int):
    """Refuse an encoder for another model by its encoder.json, before anything is loaded."""
    made = encoders.read_config(name).get("width", width)  # an own encoder may call its sizes what it likes
    if made != width:
        raise ValueError(
            f"encoder {name} makes embeddings of width {made}, and the U-Net of {model} takes {width}: choose an "
            "encoder that was trained for this model, or train one as docs/training.md says"
        )


def _refuse_other_width(name: str, encoder: nnx.Module, width: int):
    clip = jax.ShapeDtypeStruct((1, RATE), jnp.int16)
    made = nnx.eval_shape(lambda encoder, clip: encoder(clip), encoder, clip).shape[-1]
    if made != width:
        raise ValueError(f"the embeddings of encoder {name} are {made} wide, and this model's U-Net takes {width}")
