"""The frozen models that training goes through: those that the data set names, loaded as far as they are needed."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxsd.clip.pipeline import CLIP
from jaxsd.clip.towers import TextModel, normalize
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.diffusion.samplers import NoiseSchedule
from jaxsd.diffusion.unet import UNet
from jaxsd.runtime.bundled import clip_source, model_source

FROM_DIFFUSION = frozenset({"unet", "schedule", "unconditional"})  # the attributes that come from the diffusion model


class FrozenModels(nnx.Module):
    """Frozen models and arrays by name. Only the attributes that were asked for exist."""

    projection: nnx.Param  # (width, projection): CLIP's text projection
    text_model: TextModel  # CLIP's text tower
    bos: nnx.Param  # (projection,): the embedding of the start of a text, which is the same for all texts
    unet: UNet
    schedule: NoiseSchedule  # on which the U-Net was trained
    unconditional: nnx.Param  # (1, 77, width): the hidden states of the empty text
    audio_encoder: nnx.Module  # that of the sounds, where something else trains

    def __init__(self, **models: Any):
        for name, model in models.items():
            setattr(self, name, model)

    def replace(self, **models: Any) -> "FrozenModels":
        """The same models but for these."""
        kept = {name: getattr(self, name) for name in type(self).__annotations__ if hasattr(self, name)}
        return FrozenModels(**kept | models)


class DataModels(NamedTuple):
    """The models that a data set names; those that are not needed are None."""

    clip: CLIP
    diffusion: StableDiffusion | None

    def frozen(self, names: Collection[str]) -> FrozenModels:
        """The FrozenModels with these attributes, and the projection."""
        kernel = self.clip.model.text_projection.kernel[...]
        available: dict[str, Callable[[], Any]] = {
            "projection": lambda: nnx.Param(kernel),
            "text_model": lambda: self.clip.model.text_model,
            "bos": lambda: nnx.Param(_bos_embedding(self.clip)),
        }
        if pipe := self.diffusion:
            available |= {
                "unet": lambda: pipe.unet,
                "schedule": lambda: pipe.schedule,
                "unconditional": lambda: nnx.Param(pipe.encode_text([""])),
            }
        return FrozenModels(**{name: available[name]() for name in {"projection", *names}})


def load_models(
    metadata: Mapping[str, Any],
    *,
    with_diffusion: bool,
    dtype: DTypeLike,
    clip: str | None = None,
    model: str | None = None,
) -> DataModels:
    """Load the models of a data set.

    Args:
        metadata: the content of dataset.json, which names the models.
        with_diffusion: whether the diffusion model is needed.
        dtype: in which the models are kept and compute.
        clip: a CLIP in place of the one that `metadata` names, at another place: a folder or a Hugging Face repository.
        model: a Stable Diffusion in place of the one that `metadata` names, likewise.

    Raises:
        ValueError: the data set names no such model, or the models do not go together.
    """
    pipe = (
        _load_pipeline(StableDiffusion, model_source, "diffusion", model, metadata, dtype, vae=metadata.get("vae"))
        if with_diffusion
        else None
    )
    tower = _load_pipeline(CLIP, clip_source, "clip", clip, metadata, dtype, tokenizer=metadata.get("tokenizer"))
    width = tower.model.text_model.config.hidden_size
    if pipe and (attended := pipe.unet.config.cross_attention_dim) != width:
        raise ValueError(
            f"the U-Net of {model or metadata['diffusion']} attends to width {attended}, but the data's CLIP, "
            f"{clip or metadata['clip']}, has width {width}; prepare the data with models that go together"
        )
    return DataModels(tower, pipe)


def _load_pipeline(
    pipeline, source, key: str, replacement: str | None, metadata: Mapping[str, Any], dtype: DTypeLike, **parts
):
    """The pipeline that `metadata` names under `key`, or the replacement of it; `parts` take the place of its own."""
    if replacement is not None:
        return pipeline.from_pretrained(source(replacement), dtype=dtype, **parts)
    name = metadata.get(key)
    if not name:
        raise ValueError(f"the data set's dataset.json does not say which model its features are of, under {key!r}")
    try:
        return pipeline.from_pretrained(
            source(name),
            revision=metadata.get(f"{key}_revision"),
            variant=metadata.get("variant"),
            dtype=dtype,
            **parts,
        )
    except FileNotFoundError as error:
        flag = {"clip": "--clip", "diffusion": "--model"}[key]
        raise FileNotFoundError(
            f"{error}; dataset.json of the training data names it, and {flag} gives another place"
        ) from None


def _bos_embedding(clip: CLIP) -> jnp.ndarray:
    first = jnp.full((1, 1), clip.tokenizer.bos_token_id)
    hidden = clip.model.text_model(first).hidden_states[0, 0]
    return normalize(hidden @ clip.model.text_projection.kernel[...])
