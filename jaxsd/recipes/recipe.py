"""How an image was made: a recipe in the text chunks of its PNG file, from which the image is made again.

The chunk `parameters` is in the form that the tools around AUTOMATIC1111's web UI read. The chunk `jaxsd` holds all of
the recipe as JSON. Nothing in a recipe is run, and what it names is looked for by its last name only.
"""

import dataclasses
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import numpy as np
from flax import nnx
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from jaxsd.clip.images import load_image
from jaxsd.pretrained.model_config import from_dict
from jaxsd.runtime.sharding import local_mesh

RECIPE_CHUNK, WEB_UI_CHUNK = "jaxsd", "parameters"
RECIPE_VERSION = 1
LARGEST_CHUNK = 2**20  # characters
MP4 = ".mp4"
PACKAGES = ("jaxsd", "jax", "jaxlib", "flax", "numpy")  # whose versions change the last bits of an image
# What the web UI calls the samplers.
WEB_UI_SAMPLERS = {
    "pndm": "PLMS",
    "ddim": "DDIM",
    "lms": "LMS",
    "euler": "Euler",
    "euler_a": "Euler a",
    "dpm++2m": "DPM++ 2M",
    "lcm": "LCM",
    "tcd": "TCD",
}


@dataclass(frozen=True)
class SoundRecord:
    """A sound: the last name of its file, the hash of the file, and where the second begins, in seconds.

    A sound that was an array has no name, and the hash is that of the clip's int16 samples.
    """

    name: str | None
    sha256: str
    start: float = 0.0


@dataclass(frozen=True)
class ModelRecord:
    """A model: what it was loaded from, the hash of its parameters (`hash_arrays`) and, where it has one, its weight.

    The name of a model that was made in Python is None.
    """

    name: str | None
    sha256: str
    weight: float = 1.0


@dataclass(frozen=True)
class InversionRecord:
    """A textual inversion: what it was loaded from, the hash of its token and vectors, and the token."""

    name: str
    sha256: str
    token: str


@dataclass(frozen=True)
class ImageRecord:
    """An image to start from or to follow, or a mask: the last name of its file, if any, and the hash of its pixels."""

    name: str | None
    sha256: str


@dataclass(frozen=True)
class Recipe:
    """All that an image is a function of, and where it was made.

    Attributes:
        model: The Stable Diffusion. `revision`, `variant`, `tokenizer` and `vae` are what it was loaded with.
        clip_skip: How many layers of the text encoder are left out. `weighted_prompts` is whether brackets weigh words.
        sounds: Several sounds are mixed into the image, with `sound_weights`.
        prompt: None without a text.
        random: Whether the embeddings are random, the paper's baseline.
        sweep: The sweep of a strip, as the command takes it.
        slide: Seconds from one window of the sound to the next, of a strip or a film of them. `smooth` is how many
            images are between two windows, and `limit` the most windows.
        outpaint: By how many pixels `image` was grown: left, top, right, bottom.
        controlnet: What sees `control_image`, whose say is multiplied by `control_scale`.
        number: The image's number among those of the same input, from 0.
        batch: How many images a device drew at a time, on which the last bits of an image depend.
        device: The kind of the device.
        versions: Of the packages, as text.
    """

    model: ModelRecord
    encoders: tuple[ModelRecord, ...] = ()
    loras: tuple[ModelRecord, ...] = ()
    textual_inversions: tuple[InversionRecord, ...] = ()
    clip_skip: int = 0
    weighted_prompts: bool = False
    revision: str | None = None
    variant: str | None = None
    tokenizer: str | None = None
    vae: str | None = None
    sounds: tuple[SoundRecord, ...] = ()
    sound_weights: tuple[float, ...] | None = None
    prompt: str | None = None
    alpha: float = 0.5
    negative: str = ""
    unconditional: str = "text"
    random: bool = False
    sweep: str | None = None
    slide: float | None = None
    smooth: int | None = None
    limit: int | None = None
    image: ImageRecord | None = None
    mask: ImageRecord | None = None
    outpaint: tuple[int, ...] | None = None
    strength: float | None = None
    controlnet: ModelRecord | None = None
    control_image: ImageRecord | None = None
    control_scale: float = 1.0
    guidance: float = 7.5
    guidance_end: float = 1.0
    cache_interval: int = 1
    merge_tokens: float = 0.0
    steps: int = 50
    sampler: str = "pndm"
    width: int = 512
    height: int = 512
    seed: int = 0
    number: int = 0
    batch: int = 1
    dtype: str = "float32"
    device: str = ""
    versions: str = ""

    def __post_init__(self):
        for name in ("number", "seed"):
            if not 0 <= getattr(self, name) < 2**63:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: from 0 to less than 2^63")
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}; allowed: from 1")
        for record in (*self.sounds, self.image, self.mask, self.control_image):
            if record and record.name and Path(record.name).name != record.name:
                raise ValueError(f"it names the file {record.name!r}; allowed: a name without folders")

    def drawn(self, image: Image.Image, number: int, batch: int) -> "Recipe":
        """The recipe of the image of that number among those of its input, one of a `batch` that was drawn."""
        of_device = math.ceil(batch / local_mesh(batch).size)
        return dataclasses.replace(self, number=number, batch=of_device, width=image.width, height=image.height)


def recipe_json(recipe: Recipe) -> str:
    """A recipe as one line of JSON, ASCII; what it has no value for is left out."""
    values = {name: value for name, value in dataclasses.asdict(recipe).items() if value not in (None, ())}
    return json.dumps({"version": RECIPE_VERSION, **values})


def web_ui_parameters(recipe: Recipe) -> str:
    """A recipe as the web UI writes it: the prompt, the negative prompt, and one line of keys and values."""
    sounds = ", ".join(sound.name or "an array" for sound in recipe.sounds)
    lines = [recipe.prompt if recipe.prompt is not None else f"sound of {sounds}" if sounds else "random embeddings"]
    if recipe.negative:
        lines.append(f"Negative prompt: {recipe.negative}")
    values = {
        "Steps": recipe.steps,
        "Sampler": WEB_UI_SAMPLERS.get(recipe.sampler, recipe.sampler),
        "CFG scale": f"{recipe.guidance:g}",
        "Seed": recipe.seed,
        "Size": f"{recipe.width}x{recipe.height}",
        "Model hash": recipe.model.sha256[:10],
        "Model": recipe.model.name or "made in Python",
    }
    if recipe.clip_skip:
        values["Clip skip"] = recipe.clip_skip + 1  # the web UI counts the layer that is read
    if recipe.strength is not None:
        values["Denoising strength"] = f"{recipe.strength:g}"
    if recipe.sounds:
        values["Sound"] = sounds
        values["Audio encoder"] = ", ".join(encoder.name or "made in Python" for encoder in recipe.encoders)
    values["Version"] = recipe.versions.partition(",")[0]
    lines.append(", ".join(f"{key}: {_quoted(str(value))}" for key, value in values.items()))
    return "\n".join(lines)


def describe_recipe(recipe: Recipe) -> str:
    """A recipe for people: as the web UI writes it, then all of it as JSON."""
    return f"{web_ui_parameters(recipe)}\n\n{json.dumps(json.loads(recipe_json(recipe)), indent=2)}"


def _quoted(value: str) -> str:
    """A value as the web UI writes it, which cuts its line at commas and colons."""
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ",:\n") else value


def attach_recipe(image: Image.Image, recipe: Recipe) -> Image.Image:
    """The image with the recipe in its `info`, where Pillow keeps a PNG file's text chunks; `save_png` writes them."""
    image.info |= {WEB_UI_CHUNK: web_ui_parameters(recipe), RECIPE_CHUNK: recipe_json(recipe)}
    return image


def save_png(image: Image.Image, path: str | Path | IO[bytes] | io.BytesIO) -> None:
    """Write a PNG file, or into one that is open, with the recipe that is attached to the image, if there is one."""
    chunks = PngInfo()
    for name in (WEB_UI_CHUNK, RECIPE_CHUNK):
        if name in image.info:
            chunks.add_text(name, image.info[name])
    image.save(path, format="PNG", pnginfo=chunks)


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a PNG file or in a film. Raises FileNotFoundError or ValueError that names the file."""
    if Path(path).suffix.lower() == MP4:
        return read_json_recipe(_read_comment(Path(path)), path)
    image = load_image(path)
    text = {"WEBP": image.info.get("xmp"), "GIF": image.info.get("comment")}.get(image.format or "")
    return read_json_recipe(text.decode(errors="replace"), path) if text else read_attached(image, path)


def _read_comment(path: Path) -> str | None:
    """The text that an MP4 carries. Raises ValueError where it is no MP4."""
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path), "r", options={"format_whitelist": "mov"}) as container:
            return container.metadata.get("comment")
    except FFmpegError as error:
        raise ValueError(f"{path} cannot be read as a video ({error.strerror})") from error


def read_attached(image: Image.Image, path: str | Path = "the image") -> Recipe:
    """The recipe that is attached to an image; `path` is what an error calls it. Raises ValueError as `read_recipe`."""
    return read_json_recipe(image.info.get(RECIPE_CHUNK), path)


def read_json_recipe(text: Any, path: str | Path) -> Recipe:
    """A recipe from its JSON, which lies in the file `path`. Raises ValueError as `read_recipe`."""
    if not isinstance(text, str):
        raise ValueError(
            f"{path} does not say how it was made: it is no PNG file with a text chunk `{RECIPE_CHUNK}`, nor a "
            "film that carries it"
        )
    where = f"{path}: its chunk `{RECIPE_CHUNK}`"
    if len(text) > LARGEST_CHUNK:
        raise ValueError(f"{where} has {len(text)} characters; allowed: up to {LARGEST_CHUNK}")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is damaged: it is not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{where} is damaged: it holds a JSON {type(values).__name__}, not an object")
    if values.get("version") != RECIPE_VERSION:
        raise ValueError(f"{where} is of version {values.get('version')!r}; this jaxsd reads version {RECIPE_VERSION}")
    return _from_json(values, where)


def _from_json(values: dict[str, Any], where: str) -> Recipe:
    def record(cls, value):
        if not isinstance(value, dict):
            raise ValueError(f"{where}: a {cls.__name__} is {value!r}; allowed: an object")
        return _filled(cls, value, where)

    one = {"model": ModelRecord, "controlnet": ModelRecord}
    one |= dict.fromkeys(("image", "mask", "control_image"), ImageRecord)
    several = {
        "sounds": SoundRecord,
        "encoders": ModelRecord,
        "loras": ModelRecord,
        "textual_inversions": InversionRecord,
    }
    for name, cls in one.items():
        if name in values:
            values[name] = record(cls, values[name])
    for name, cls in several.items():
        if name in values:
            if not isinstance(values[name], list):
                raise ValueError(f"{where}: {name} is {values[name]!r}; allowed: a list")
            values[name] = tuple(record(cls, value) for value in values[name])
    return _filled(Recipe, values, where)


def _filled(cls: type, values: dict[str, Any], where: str) -> Any:
    needed = [field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING]
    if missing := [name for name in needed if name not in values]:
        raise ValueError(f"{where} is damaged: a {cls.__name__} in it has no {missing[0]}")
    return from_dict(cls, values, where)


def hash_arrays(arrays: Mapping[str, Any]) -> str:
    """The SHA-256 of arrays by name: of names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def hash_modules(modules: Sequence[nnx.Module]) -> str:
    """The SHA-256 of the parameters of modules, in the dtype in which they are kept."""
    arrays = {}
    for number, module in enumerate(modules):
        for path, value in nnx.to_flat_state(nnx.state(module)):
            arrays[".".join(map(str, (number, *path)))] = value[...]
    return hash_arrays(arrays)


def hash_file(path: str | Path) -> str:
    """The SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def image_record(image: Any) -> ImageRecord | None:
    """The record of an image to start from, of one that is open as a file or not, or of an array; None of None."""
    if image is None:
        return None
    if not isinstance(image, Image.Image):
        return ImageRecord(None, hash_arrays({"image": np.asarray(image, np.float32)}))
    name = Path(getattr(image, "filename", "") or "").name or None
    return ImageRecord(name, hash_arrays({image.mode: np.asarray(image)}))


def source_name(source: str | Path) -> str:
    """What a recipe calls the source of a model: as it was named, but of an absolute path the last name alone."""
    return Path(source).name if Path(source).is_absolute() else str(source)


def device_kind() -> str:
    """The kind of the devices that this process draws on."""
    return local_mesh(1).devices.flat[0].device_kind


def package_versions() -> str:
    """The versions of PACKAGES, as text; a checkout that is not installed has none."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(package)
    return ", ".join(found)
