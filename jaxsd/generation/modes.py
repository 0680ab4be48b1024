"""The modes of generate.py: images of sounds and texts, strips of a sweep, and strips and films of long sounds.

`arguments` are the flags as generate.py reads them; where these follow a recipe, `recipe` is it.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int16
from PIL import Image

from jaxsd.audio import open_sound
from jaxsd.clip.images import load_image
from jaxsd.diffusion.images import pad_image
from jaxsd.diffusion.loading import require_tokenizer
from jaxsd.generation.checks import check_flags
from jaxsd.generation.drawing import Drawing, write_images, write_sweep
from jaxsd.generation.flags import given_sampling, load_changed_model
from jaxsd.generation.hearing import hear
from jaxsd.generation.inputs import Inputs, check_prompts, find_sounds, read_inputs, sound_stem
from jaxsd.generation.slides import ALLOWED_SLIDE_FILES, SLIDE_FILES, Slide, write_slide
from jaxsd.generation.sweeps import Sweep, parse_sweep
from jaxsd.recipes.recipe import Recipe
from jaxsd.recipes.remake import check_ingredients
from jaxsd.runtime.bundled import model_source
from jaxsd.sound_to_image import (
    Conditioning,
    SoundToImage,
    check_alpha,
    image_keys,
    interpolate_embeddings,
    load_windows,
    normalize_weights,
)

PAPER_ALPHA = 0.5


@dataclass(frozen=True, eq=False)
class Request:
    """What the flags ask for, with its files read and its model loaded.

    image, mask: the image to start from, grown by --outpaint, and what of it is painted anew. sampling: keyword
    arguments of `StableDiffusion.__call__`.
    """

    arguments: argparse.Namespace
    inputs: Inputs
    image: Image.Image | None
    mask: Any
    model: SoundToImage
    sampling: dict[str, Any]

    @property
    def alpha(self) -> float:
        return PAPER_ALPHA if self.arguments.alpha is None else self.arguments.alpha

    @property
    def _mixing(self) -> dict[str, Any]:
        flags = self.arguments
        return {"mix": flags.mix, "sound_weights": flags.sound_weights, "negative": flags.negative}

    def _unconditional(self, sweep: Sweep | None) -> str | None:
        guided = self.model.is_guided(self.sampling["guidance"]) or sweep is not None and sweep.name == "guidance"
        return self.arguments.unconditional if guided else None

    def conditioning(self, sweep: Sweep | None = None) -> Conditioning:
        """The conditioning of each input, for whatever values of a sweep."""
        flags = self.arguments
        if flags.random:
            return self.model.random(image_keys(flags.seed, range(flags.first, flags.first + max(flags.count, 1))))
        return self.encode(self.inputs.clips, self.inputs.prompts, sweep)

    def encode(
        self, clips: Int16[np.ndarray, "sounds 16000"] | None, prompts: Sequence[str], sweep: Sweep | None = None
    ) -> Conditioning:
        mixing = self._mixing | {"alpha": self.alpha, "unconditional": self._unconditional(sweep)}
        return self.model.encode(clips, prompts, **mixing)

    def conditionings(self, sweep: Sweep) -> list[Conditioning]:
        """That of each value of a sweep."""
        if sweep.name != "alpha":
            return [self.conditioning(sweep)] * len(sweep.values)
        mixing = self._mixing | {"unconditional": self._unconditional(sweep)}
        return self.model.encode_alphas(sweep.values, self.inputs.clips, self.inputs.prompts, **mixing)

    @cached_property
    def recipes(self) -> list[Recipe]:
        flags = self.arguments
        return self.model.recipes(
            [sound.record for sound in self.inputs.sounds],
            self.inputs.prompts,
            **self._mixing,
            alpha=self.alpha,
            unconditional=flags.unconditional,
            sweep=flags.sweep,
            slide=flags.slide,
            smooth=flags.smooth,
            limit=flags.limit,
            random=flags.random,
            seed=flags.seed,
            outpaint=flags.outpaint,
            image=self.inputs.image,
            mask=self.mask if flags.mask else None,
            **self.sampling,
        )

    def drawing(self, conditioning: Conditioning) -> Drawing:
        flags = self.arguments
        return Drawing(
            self.model.pipe,
            conditioning,
            self.inputs.stems,
            flags.out,
            recipes=self.recipes,
            count=flags.count,
            first=flags.first,
            batch=flags.batch,
            seed=flags.seed,
            overwrite=flags.overwrite,
            sampling=self.sampling | {"image": self.image, "mask": self.mask},
        )


def generate_images(arguments: argparse.Namespace, recipe: Recipe | None = None) -> list[Path]:
    """The images of each sound or text; the paths of their files."""
    _check_request(arguments)
    request = _prepare_request(arguments, recipe)
    _tell_heard(request)
    return write_images(request.drawing(request.conditioning()))


def generate_sweep(arguments: argparse.Namespace, recipe: Recipe | None = None) -> list[Path]:
    """`--sweep`: a strip for each sound or text; the paths of their files."""
    sweep = _read_sweep(arguments)
    _check_request(arguments, sweep)
    request = _prepare_request(arguments, recipe)
    conditionings = request.conditionings(sweep)
    return write_sweep(request.drawing(conditionings[0]), sweep, conditionings)


def generate_slide(arguments: argparse.Namespace, recipe: Recipe | None = None) -> list[Path]:
    """`--slide`: a strip and a film for each sound, or the one file that --out names; the paths of the files."""
    for name in ("mix", "sound_weights", "sweep", "window", "random"):
        if getattr(arguments, name) not in (None, False):
            raise ValueError(f"--{name.replace('_', '-')} is not for --slide, which takes all of a sound; leave it out")
    if not arguments.audio or arguments.count != 1:
        raise ValueError("--slide draws one image of every window of a sound; give --audio, and leave --count out")
    if (arguments.smooth or 0) < 0:
        raise ValueError(f"smooth is {arguments.smooth}; allowed: 0 or more")
    sounds = find_sounds(arguments.audio)
    check_prompts(arguments.text, len(sounds))
    folder, stems, suffixes = arguments.out, [f"{sound_stem(sound)}-slide" for sound in sounds], SLIDE_FILES
    if (suffix := folder.suffix.lower()) in ALLOWED_SLIDE_FILES and not folder.is_dir():
        if len(sounds) > 1:
            raise ValueError(f"--out {folder} is one file for {len(sounds)} sounds; allowed: a folder")
        folder, stems, suffixes = folder.parent, [folder.stem], (suffix,)
    arguments = argparse.Namespace(**vars(arguments) | {"out": folder})
    _check_request(arguments)
    windows = [load_windows(sound, arguments.slide, limit=arguments.limit) for sound in sounds]
    image = None if arguments.image is None else load_image(arguments.image)
    inputs = Inputs([first for first, *_ in windows], arguments.text, stems, image)
    request = _prepare_request(arguments, recipe, inputs)
    paths = []
    for number, (sound, of_sound) in enumerate(zip(sounds, windows, strict=True)):
        prompts = arguments.text[number : number + 1] if len(arguments.text) > 1 else arguments.text
        cond, uncond = request.encode(np.stack([window.clip.samples for window in of_sound]), prompts)
        slide = Slide(open_sound(sound), len(of_sound), arguments.slide, arguments.smooth or 0)
        drawing = request.drawing(Conditioning(interpolate_embeddings(cond, slide.smooth), uncond))
        drawing = replace(drawing, stems=[stems[number]] * len(drawing.conditioning.cond), recipes=())
        paths += write_slide(drawing, slide, request.recipes[number], suffixes)
    return paths


def _check_request(arguments: argparse.Namespace, sweep: Sweep | None = None):
    """Refuse flags that do not fit each other or the model's configs, before sounds are read and the model is loaded.

    Raises ValueError or FileNotFoundError.
    """
    if arguments.alpha is not None and not (arguments.audio and arguments.text):
        raise ValueError("--alpha is the share of the text beside sounds; give --audio and --text")
    if (arguments.mix or arguments.sound_weights) and not arguments.audio:
        raise ValueError("--mix and --sound-weights are for sounds; give --audio")
    if arguments.sound_weights and not arguments.mix:
        raise ValueError("--sound-weights are the shares of sounds that are mixed; give --mix")
    if arguments.alpha is not None:
        check_alpha(arguments.alpha)
    check_flags(
        arguments,
        arguments.encoder if arguments.audio else [],
        texts=[*arguments.text, arguments.negative],
        images=(arguments.image is not None,),
        mask=bool(arguments.mask or arguments.outpaint),
        swept=[{sweep.name: value} for value in sweep.values] if sweep else ({},),
    )


def _prepare_request(arguments: argparse.Namespace, recipe: Recipe | None, inputs: Inputs | None = None) -> Request:
    """Read the files and then load the model. Raises ValueError or FileNotFoundError."""
    if inputs is None:
        mode = {"mix": arguments.mix, "random": arguments.random, "start": arguments.window}
        inputs = read_inputs(arguments.audio, arguments.text, arguments.image, **mode)
    image, mask = _read_mask(arguments, inputs.image)
    normalize_weights(arguments.sound_weights, len(inputs.sounds), "sound")  # refuses before the model is loaded
    if (arguments.text or arguments.negative or arguments.embedding) and not arguments.tokenizer:
        require_tokenizer(model_source(arguments.model))
    control_image = _read_control(arguments)
    model = load_changed_model(arguments, arguments.encoder if arguments.audio else [], arguments.weights)
    _tell_unread_tokens(model, [*arguments.text, arguments.negative])
    defaults = model.sampling_defaults(image=inputs.image is not None)
    sampling = {"guidance": defaults.guidance, "steps": defaults.steps} | given_sampling(arguments)
    sampling |= {"strength": arguments.strength, "control_image": control_image}
    request = Request(arguments, inputs, image, mask, model, sampling)
    if recipe:
        check_ingredients(arguments.recipe, recipe, request.recipes[0])
    return request


def _tell_unread_tokens(model: SoundToImage, texts: Sequence[str]):
    """Say on stderr which tokens of textual inversions are in no text, for then they change no image."""
    for token, inversion in model.pipe.textual_inversions.items():
        if not any(token.lower() in text.lower() for text in texts):
            print(f"{inversion.source}: its token {token} is in no text and changes no image", file=sys.stderr)


def _tell_heard(request: Request):
    """Say on stderr what the encoders hear in each sound, if the model is the toy world's, which knows ten things."""
    clips = request.inputs.clips
    if request.arguments.model != "toy" or clips is None:
        return
    found = hear(np.asarray(request.model.encode_audio(clips), np.float32))
    for sound, heard in zip(request.inputs.sounds, found, strict=True):
        print(f"{sound.record.name or 'standard input'} {heard}", file=sys.stderr)


def _read_sweep(arguments: argparse.Namespace) -> Sweep:
    sweep = parse_sweep(arguments.sweep)
    if getattr(arguments, sweep.name) is not None and not arguments.recipe:
        raise ValueError(f"--sweep sets {sweep.name}; leave --{sweep.name} out")
    if sweep.name == "alpha" and not (arguments.audio and arguments.text):
        raise ValueError("--sweep alpha is the share of the text beside sounds; give --audio and --text")
    if sweep.name == "strength" and not arguments.image:
        raise ValueError("--sweep strength is for an image to start from; give --image")
    return sweep


def _read_control(arguments: argparse.Namespace) -> Image.Image | None:
    """The image that the ControlNet sees; None without."""
    if bool(arguments.controlnet) != bool(arguments.control_image):
        raise ValueError("--controlnet and --control-image go together: a ControlNet and the image that it sees")
    if arguments.control_scale is not None and not arguments.controlnet:
        raise ValueError("--control-scale is how much a ControlNet says; give --controlnet and --control-image")
    return load_image(arguments.control_image) if arguments.control_image else None


def _read_mask(arguments: argparse.Namespace, image: Image.Image | None) -> tuple[Image.Image | None, Any]:
    """The image to start from, grown by --outpaint, and what of it is painted anew; None without."""
    if image is None:
        if arguments.mask or arguments.outpaint:
            raise ValueError("--mask and --outpaint need the image that they are for; give --image")
        if arguments.strength is not None:
            raise ValueError("--strength is for an image to start from; give --image")
        return None, None
    if arguments.mask and arguments.outpaint:
        raise ValueError("--mask and --outpaint cannot be had together: draw the border into the image and the mask")
    if arguments.outpaint:
        return pad_image(image, *arguments.outpaint)
    return image, load_image(arguments.mask) if arguments.mask else None
