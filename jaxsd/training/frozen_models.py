"""The frozen models that training aims at."""

from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from jaxsd.bundled import clip_source, model_source
from jaxsd.clip.pipeline import CLIP
from jaxsd.clip.towers import TextModel, normalise
from jaxsd.config import TrainConfig
from jaxsd.data.columns import METADATA
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.files import read_json


class FrozenModels(nnx.Module):
    """CLIP's text projection, and what else a config needs; the rest is None.

    projection: (width, projection). text_model: the text tower. bos: (projection,), what its first row makes of every
    text. unet, with the noise schedule it was trained on, and empty: (1, 77, width), its unconditional context.
    """

    def __init__(
        self,
        projection: jax.Array,
        text_model: TextModel | None = None,
        bos: jax.Array | None = None,
        pipe: StableDiffusion | None = None,
    ):
        self.projection = nnx.Param(projection)
        self.text_model = text_model
        self.bos = nnx.Param(bos) if bos is not None else None
        self.unet = pipe.unet if pipe else None
        self.schedule = pipe.schedule if pipe else None
        self.empty = nnx.Param(pipe.encode_text([""])) if pipe else None


def load_frozen_models(config: TrainConfig, folder, dtype: jnp.dtype) -> FrozenModels:
    """What training by `config` on the split in `folder`, and watching it, needs of the models that the split names.

    They are kept and compute in `dtype`. Raises ValueError where the split names no CLIP or
    the encoder's width does not fit it.
    """
    about = read_json(Path(folder) / METADATA)
    name = about.get("clip")
    if not name:
        raise ValueError(f"{Path(folder) / METADATA} does not say which CLIP its embeddings are of, under the key clip")
    source = clip_source(name)
    clip = CLIP.from_pretrained(source, revision=about.get("clip_revision"), dtype=dtype)
    projection = clip.model.text_projection.kernel[...]
    width = config.encoder_config["width"]
    if width != len(projection):
        raise ValueError(
            f"encoder_config.width is {width}, but the hidden states of the data's CLIP, {name}, have width "
            f"{len(projection)}; set --config.encoder_config.width={len(projection)}"
        )
    bos = pipe = None
    if config.text_pooling == "bos":
        first = jnp.full((1, 1), clip.tokenizer.bos_token_id)
        bos = normalise(clip.model.text_model(first).hidden_states[0, 0] @ projection)
    if "latents" in about["columns"]:
        pipe = StableDiffusion.from_pretrained(model_source(about["diffusion"]), dtype=dtype)
        if pipe.unet.config.cross_attention_dim != width:
            raise ValueError(
                f"the U-Net of {about['diffusion']} attends to width {pipe.unet.config.cross_attention_dim}, but the "
                f"data's CLIP, {name}, has width {width}; prepare the data with models that go together"
            )
    return FrozenModels(projection, clip.model.text_model if config.weights["sequence"] else None, bos, pipe)
