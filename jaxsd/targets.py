"""The frozen models that training aims at."""

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from jaxsd.clip.pipeline import CLIP
from jaxsd.clip.towers import TextModel, normalise
from jaxsd.config import read_json
from jaxsd.data.columns import ABOUT
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.toy.bundled import find_models


class Targets(nnx.Module):
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


def load_targets(config: ConfigDict, folder, dtype: jnp.dtype, models=None) -> Targets:
    """What training by `config` on the split in `folder`, and watching it, needs of the models that the split names.

    `models`, a folder with Stable Diffusion and in clip/ CLIP, stands in for those. They compute in `dtype`; the
    U-Net's parameters are of it. Raises ValueError where the encoder's width does not fit them.
    """
    about = read_json(folder / ABOUT)
    models = models or (find_models("toy") if about["clip"] == "toy" else None)
    source, revision = (models / "clip", None) if models else (about["clip"], about.get("clip_revision"))
    clip = CLIP.from_pretrained(source, revision=revision, dtype=dtype)
    projection = clip.model.text_projection.kernel[...]
    width = config.encoder_config.width
    if width != len(projection):
        raise ValueError(
            f"encoder_config.width is {width}, but the texts of the data's CLIP, {source}, have width "
            f"{len(projection)}; set --config.encoder_config.width={len(projection)}"
        )
    bos = pipe = None
    if config.text_pooling == "bos":
        first = jnp.full((1, 1), clip.tokenizer.bos_token_id)
        bos = normalise(clip.model.text_model(first).hidden_states[0, 0] @ projection)
    if "latents" in about["columns"]:
        pipe = StableDiffusion.from_pretrained(models or about["diffusion"], dtype=dtype)
        nnx.update(pipe.unet, jax.tree.map(lambda x: x.astype(dtype), nnx.state(pipe.unet)))
    return Targets(projection, clip.model.text_model if config.weights.sequence else None, bos, pipe)
