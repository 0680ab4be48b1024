"""CLIP from a Hugging Face folder: texts and images to embeddings in one space."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from PIL import Image

from jaxsd.clip.images import resize_and_crop
from jaxsd.clip.params import CLIP_IGNORED, CLIP_MAPPING
from jaxsd.clip.tokens import TOKENIZER_FILES, check_tokens, load_tokenizer, tokenize
from jaxsd.clip.towers import LEGACY_EOS, CLIPModel, TextConfig, VisionConfig
from jaxsd.pretrained.hub import fetch
from jaxsd.pretrained.mapping import export_parameters
from jaxsd.pretrained.model_config import from_dict, to_json
from jaxsd.pretrained.precision import choose_dtype, require_finite
from jaxsd.pretrained.weights import (
    TRANSFORMERS_WEIGHTS,
    download_weights,
    find_weights,
    load_weights,
    write_safetensors,
)
from jaxsd.runtime.files import read_json, write_json

TEXT_TOWER, VISION_TOWER = "CLIP's text tower", "CLIP's vision tower"  # what errors call them
CLIP_CONFIG_FILES = ("config.json", "preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class Preprocessing:
    """What `preprocessor_config.json` says of how an image enters the vision tower."""

    image_mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    image_std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Projection:
    """What `config.json` says of the shared space."""

    projection_dim: int = 512


def read_preprocessing(folder: Path) -> Preprocessing:
    """Read `preprocessor_config.json`, or what transformers 5 writes in its place into `processor_config.json`."""
    path = folder / "preprocessor_config.json"
    if not path.is_file() and (folder / "processor_config.json").is_file():
        path = folder / "processor_config.json"
        values = read_json(path).get("image_processor")
        if not isinstance(values, dict):
            raise ValueError(f"{path}: image_processor is {values!r}; allowed: an object")
        return from_dict(Preprocessing, values, path)
    return from_dict(Preprocessing, read_json(path), path)


def read_clip_configs(source: str | Path, revision: str | None = None) -> tuple[Path, TextConfig, VisionConfig, int]:
    """The folder of a CLIP with its configs and its tokenizer, those of its towers, and the size of its embeddings.

    No weights are loaded or downloaded. Raises FileNotFoundError or ValueError naming the file.
    """
    folder = fetch(source, (*CLIP_CONFIG_FILES, *TOKENIZER_FILES), revision)
    path = folder / "config.json"
    config = read_json(path)
    if config.get("model_type", "clip") != "clip":
        raise ValueError(f"{path}: model_type is {config['model_type']!r}; allowed: 'clip'")
    text = from_dict(TextConfig, _tower_values(config, "text_config", path), path)
    vision = from_dict(VisionConfig, _tower_values(config, "vision_config", path), path)
    return folder, text, vision, from_dict(Projection, config, path).projection_dim


def _tower_values(config: dict, key: str, path: Path) -> dict:
    """What a config says of a tower. Older files have a second object, which counts where both say something."""
    values = {}
    for name in (key, f"{key}_dict"):
        part = config.get(name)
        if not isinstance(part, dict | None):
            raise ValueError(f"{path}: {name} is {part!r}; allowed: an object")
        values |= part or {}
    return values


class CLIP:
    """CLIP with its tokenizer and image preprocessing."""

    def __init__(self, model: CLIPModel, tokenizer, preprocessing: Preprocessing):
        self.model, self.tokenizer, self.preprocessing = model, tokenizer, preprocessing
        self._embed_text = nnx.jit(lambda model, tokens: model.embed_text(tokens))
        self._embed_image = nnx.jit(lambda model, images: model.embed_image(self._normalize(images)))

    def __repr__(self) -> str:
        parameters = sum(p.size for p in jax.tree.leaves(nnx.state(self.model)))
        side, width = self.model.vision_model.config.image_size, self.model.text_projection.out_features
        return f"CLIP: images of {side} pixels, embeddings of {width}, {parameters / 1e6:.1f} million parameters"

    @classmethod
    def from_pretrained(
        cls,
        source,
        *,
        revision: str | None = None,
        variant: str | None = None,
        tokenizer: str | Path | None = None,
        dtype: DTypeLike | None = None,
    ) -> "CLIP":
        """Load a model.

        Args:
            source: A folder in transformers' layout, or the id of a Hugging Face repository.
            revision: A branch, tag or commit of the repository.
            variant: What the weights' file names contain, such as "fp16". By default nothing, or the one variant that
                is there.
            tokenizer: A folder or repository in place of the model's own tokenizer.
            dtype: Parameters are kept and compute in it, whatever the file has. By default bfloat16 on accelerators
                and float32 on the CPU.

        Raises:
            FileNotFoundError, ValueError: Name the file and what is wrong.
        """
        dtype = choose_dtype(dtype)
        folder, text, vision, projection = read_clip_configs(source, revision)
        preprocessing = read_preprocessing(folder)
        download_weights(source, folder, {"": TRANSFORMERS_WEIGHTS}, variant)
        weights = find_weights(folder, TRANSFORMERS_WEIGHTS, variant)

        make = partial(CLIPModel, text, vision, projection, dtype=dtype)
        model = load_weights(weights, CLIP_MAPPING, make, dtype, CLIP_IGNORED, wanted="CLIP")
        own_tokenizer = load_tokenizer(tokenizer or folder, text)
        if text.eos_token_id not in (LEGACY_EOS, own_tokenizer.eos_token_id):
            raise ValueError(
                f"{folder / 'config.json'}: eos_token_id is {text.eos_token_id}, but the tokenizer ends a text with "
                f"{own_tokenizer.eos_token_id}: they are not of one model"
            )
        return cls(model, own_tokenizer, preprocessing)

    def save_pretrained(self, folder, *, dtype: DTypeLike = np.float32):
        """Write the folder that `from_pretrained` and transformers' CLIPModel read, weights as `dtype`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(export_parameters(self.model, CLIP_MAPPING, dtype), folder / TRANSFORMERS_WEIGHTS.file)
        text, vision = self.model.text_model.config, self.model.vision_model.config
        config = {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": self.model.text_projection.out_features,
            "text_config": text_json(text, self.tokenizer),
            "vision_config": {"model_type": "clip_vision_model", **to_json(vision)},
        }
        write_json(folder / "config.json", config)
        size = {"height": vision.image_size, "width": vision.image_size}
        write_json(
            folder / "preprocessor_config.json",
            {
                "image_processor_type": "CLIPImageProcessor",
                "crop_size": size,
                "size": {"shortest_edge": vision.image_size},
                **to_json(self.preprocessing),
            },
        )
        self.tokenizer.save_pretrained(folder)

    def embed_text(self, texts: list[str]) -> jax.Array:
        """Unit-norm embeddings, float32 (len(texts), projection_dim). Raises ValueError where one is not finite."""
        embeddings = self.embed_tokens(tokenize(self.tokenizer, texts))
        require_finite(embeddings, TEXT_TOWER, self.model.text_projection.dtype)
        return embeddings

    def embed_tokens(self, tokens: np.ndarray | jax.Array) -> jax.Array:
        """Unit-norm embeddings, float32 (n, projection_dim), of token ids (n, 77). They may be not finite."""
        if isinstance(tokens, np.ndarray):  # ids that are on a device already come from a tokenizer that fits
            check_tokens(tokens, self.model.text_model.config)
        return self._embed_text(self.model, tokens)

    def embed_images(self, images: list[Image.Image]) -> jax.Array:
        """Unit-norm embeddings of images of any size, float32 (len(images), projection_dim).

        Raises ValueError where one is not finite.
        """
        size = self.model.vision_model.config.image_size
        embeddings = self.embed_arrays(np.stack([np.asarray(resize_and_crop(image, size)) for image in images]))
        require_finite(embeddings, VISION_TOWER, self.model.visual_projection.dtype)
        return embeddings

    def embed_arrays(self, images: np.ndarray | jax.Array) -> jax.Array:
        """Likewise of uint8 images (n, image_size, image_size, 3)."""
        return self._embed_image(self.model, images)

    def _normalize(self, images):
        mean, std = (jnp.asarray(x) for x in (self.preprocessing.image_mean, self.preprocessing.image_std))
        return (images.astype(jnp.float32) / 255 - mean[None, None, None]) / std[None, None, None]


def text_json(config: TextConfig, tokenizer) -> dict:
    """The config of a text tower as transformers writes it."""
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "pad_token_id")}
    return {"model_type": "clip_text_model", **tokens, **to_json(config)}
