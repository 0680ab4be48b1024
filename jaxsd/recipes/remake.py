"""From a recipe to the arguments of generate.py: what a recipe names is found, and checked by its hash.

A recipe may come from a stranger. Files are looked for by their last name, beside the image, in the current folder and
among the sample sounds, and each one that is read is told. Models are read only if they ship with the package or the
user names them: a recipe leads to no download and to no folder.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from encoders.store import bundled_encoders
from jaxsd.clip.images import load_image
from jaxsd.recipes.recipe import ImageRecord, Recipe, SoundRecord, hash_file, image_record
from jaxsd.runtime.bundled import TOY_SAMPLES

HASH_SHOWN = 12  # digits of a hash in a message


def recipe_flags(recipe: Recipe) -> dict[str, Any]:
    """The arguments of generate.py that a recipe stands for, by name; those that name files and models are left out."""
    return {
        "text": [] if recipe.prompt is None else [recipe.prompt],
        "weights": [encoder.weight for encoder in recipe.encoders] or None,
        "mix": len(recipe.sounds) > 1 or recipe.sound_weights is not None,
        "sound_weights": recipe.sound_weights,
        "alpha": recipe.alpha if recipe.sounds and recipe.prompt is not None else None,
        "random": recipe.random,
        "outpaint": recipe.outpaint,
        "sweep": recipe.sweep,
        "slide": recipe.slide,
        "smooth": recipe.smooth,
        "limit": recipe.limit,
        "window": [sound.start for sound in recipe.sounds] if recipe.sounds and recipe.slide is None else None,
        "control_scale": recipe.control_scale if recipe.controlnet else None,
        "first": recipe.number,
        "batch": recipe.batch,
    } | {
        name: getattr(recipe, name)
        for name in (
            *("revision", "variant", "negative", "unconditional", "strength", "guidance", "guidance_end", "steps"),
            *("sampler", "width", "height", "seed", "dtype", "clip_skip", "weighted_prompts"),
            *("cache_interval", "merge_tokens"),
        )
    }


def find_ingredients(picture: Path, recipe: Recipe, named: dict[str, Any]) -> dict[str, Any]:
    """The arguments of generate.py that name files and models, where `named` (those the user gave) has none.

    Raises FileNotFoundError or ValueError, in one sentence, where a file is not found or has another content, and where
    the user must name a model.
    """
    found, missing = {}, []
    if not named["model"]:
        found["model"] = recipe.model.name
        if recipe.model.name != "toy":
            missing.append(f"--model {recipe.model.name}")
    if not named["encoder"]:
        found["encoder"] = [encoder.name for encoder in recipe.encoders]
        if not set(found["encoder"]) <= bundled_encoders().keys():
            missing.append(" ".join(["--encoder", *map(str, found["encoder"])]))
    if not named["lora"] and recipe.loras:
        missing.append(" ".join(["--lora", *(f"{lora.name}:{lora.weight:g}" for lora in recipe.loras)]))
    if not named["embedding"] and recipe.textual_inversions:
        inversions = (f"{inversion.token}={inversion.name}" for inversion in recipe.textual_inversions)
        missing.append(" ".join(["--embedding", *inversions]))
    if not named["controlnet"] and recipe.controlnet:
        missing.append(f"--controlnet {recipe.controlnet.name}")
    for name in ("tokenizer", "vae"):
        if not named[name] and getattr(recipe, name):
            missing.append(f"--{name} {getattr(recipe, name)}")
    if missing:
        raise ValueError(
            f"{picture} was made with models that a recipe alone may not load; name where they are: {' '.join(missing)}"
        )
    if not named["audio"]:
        found["audio"] = [str(_find_sound(picture, sound)) for sound in recipe.sounds]
    for name in ("image", "mask", "control_image"):
        record = getattr(recipe, name)
        if not named[name] and record:
            found[name] = str(_find_image(picture, record, f"--{name.replace('_', '-')}"))
    return found


def check_ingredients(picture: Path, recipe: Recipe, made: Recipe) -> None:
    """Raise ValueError where what an image is made of now, as `made` says, is not what the recipe says.

    That the device or the packages are others is told on stderr, for then the last bits may differ.
    """
    for what, then, now in (
        ("the model", (recipe.model,), (made.model,)),
        ("the encoders", recipe.encoders, made.encoders),
        ("the LoRAs", recipe.loras, made.loras),
        ("the textual inversions", recipe.textual_inversions, made.textual_inversions),
        ("the sounds", recipe.sounds, made.sounds),
        ("the image to start from", (recipe.image,), (made.image,)),
        ("the mask", (recipe.mask,), (made.mask,)),
        ("the ControlNet", (recipe.controlnet,), (made.controlnet,)),
        ("the control image", (recipe.control_image,), (made.control_image,)),
    ):
        if [record and record.sha256 for record in then] != [record and record.sha256 for record in now]:
            names = " ".join(str(record.name) for record in now if record) or "none"
            raise ValueError(f"{picture} was made of other content than {what} {names} have: the SHA-256 differs")
    for name in ("device", "versions"):
        then, now = getattr(recipe, name), getattr(made, name)
        if then != now:
            print(f"{picture}: made with {then}, here is {now}; the last bits may differ", file=sys.stderr)


def _find_sound(picture: Path, record: SoundRecord) -> Path:
    return _find_ingredient(picture, record, "--audio", hash_file, TOY_SAMPLES)


def _find_image(picture: Path, record: ImageRecord, flag: str) -> Path:
    def hash_pixels(path: Path) -> str | None:
        found = image_record(load_image(path))
        return found and found.sha256

    return _find_ingredient(picture, record, flag, hash_pixels)


def _find_ingredient(
    picture: Path, record: SoundRecord | ImageRecord, flag: str, hash_of: Callable[[Path], str | None], *more: Path
) -> Path:
    """The file of a record: the first one of its name that has its hash."""
    digest = f"(SHA-256 {record.sha256[:HASH_SHOWN]}...)"
    if record.name is None:
        raise ValueError(
            f"{picture} was made of an array or of standard input {digest}, not of a file; name a file of it: "
            f"{flag} FILE"
        )
    paths = [folder / record.name for folder in (picture.parent, Path(), *more)]
    paths = [path for path in paths if path.is_file()]
    for path in paths:
        if hash_of(path) == record.sha256:
            print(f"{picture}: {record.name} is {path}", file=sys.stderr)
            return path
    if paths:
        raise ValueError(
            f"{picture} was made of another {record.name} {digest} than {paths[0]}; name the right one: {flag} FILE"
        )
    raise FileNotFoundError(
        f"{picture} was made of {record.name} {digest}, which lies neither beside it nor in this folder; name it: "
        f"{flag} FILE"
    )
