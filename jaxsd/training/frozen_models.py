"""The frozen models that training goes through: those that the data set names, loaded as far as they are needed."""

from collections.abc import Collection, Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from jaxsd.bundled import clip_source, model_source
from jaxsd.clip.pipeline import CLIP
from jaxsd.clip.towers import TextModel, normalise
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.diffusion.samplers import NoiseSchedule
from jaxsd.diffusion.unet import UNet

FROM_DIFFUSION = frozenset({"unet", "schedule", "unconditional"})  # the attributes that come from the diffusion model


class FrozenModels(nnx.Module):
    """Frozen models and arrays by name. Only the attributes that were asked for exist."""

    projection: nnx.Param  # (width, projection): CLIP's text projection
    text_model: TextModel  # CLIP's text tower
    bos: nnx.Param  # (projection,): the embedding of the start of a text, which is the same for all texts
    unet: UNet
    schedule: NoiseSchedule  # on which the U-Net was trained
    unconditional: nnx.Param  # (1, 77, width): the hidden states of the empty text

    def __init__(self, **models: Any):
        for name, model in models.items():
            setattr(self, name, model)


def load_frozen_models(
    dataset: Mapping[str, Any],
    names: Collection[str],
    *,
    dtype: jnp.dtype,
    clip: str | None = None,
    diffusion: str | None = None,
) -> FrozenModels:
    """Load the models of a data set that are needed.

    Args:
        dataset: the content of dataset.json, which names the models.
        names: the attributes of FrozenModels that are needed, beside the projection, which always is.
        dtype: in which the models are kept and compute.
        clip: a CLIP in place of the one that `dataset` names, at another place: a folder or a Hugging Face repository.
        diffusion: a Stable Diffusion in place of the one that `dataset` names, likewise.

    Raises:
        ValueError: dataset.json names no such model, or the models do not go together.
    """
    tower = _load_pipeline(CLIP, clip_source, "clip", clip, dataset, dtype)
    kernel = tower.model.text_projection.kernel[...]
    available = {"projection": lambda: nnx.Param(kernel), "text_model": lambda: tower.model.text_model}
    available["bos"] = lambda: nnx.Param(_bos_embedding(tower))
    if FROM_DIFFUSION & set(names):
        pipe = _load_pipeline(StableDiffusion, model_source, "diffusion", diffusion, dataset, dtype)
        if (width := pipe.unet.config.cross_attention_dim) != len(kernel):
            raise ValueError(
                f"the U-Net of {diffusion or dataset['diffusion']} attends to width {width}, but the data's CLIP, "
                f"{clip or dataset['clip']}, has width {len(kernel)}; prepare the data with models that go together"
            )
        available |= {"unet": lambda: pipe.unet, "schedule": lambda: pipe.schedule}
        available["unconditional"] = lambda: nnx.Param(pipe.encode_text([""]))
    return FrozenModels(**{name: available[name]() for name in {"projection", *names}})


def _load_pipeline(pipeline, source, key: str, replacement: str | None, dataset: Mapping[str, Any], dtype: jnp.dtype):
    """The pipeline that `dataset` names under `key`, or the replacement of it."""
    if replacement is not None:
        return pipeline.from_pretrained(source(replacement), dtype=dtype)
    name = dataset.get(key)
    if not name:
        raise ValueError(f"the data set's dataset.json does not say which model its features are of, under {key!r}")
    return pipeline.from_pretrained(source(name), revision=dataset.get(f"{key}_revision"), dtype=dtype)


def _bos_embedding(clip: CLIP) -> jnp.ndarray:
    first = jnp.full((1, 1), clip.tokenizer.bos_token_id)
    hidden = clip.model.text_model(first).hidden_states[0, 0]
    return normalise(hidden @ clip.model.text_projection.kernel[...])
