"""CLIP against PyTorch transformers."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from PIL import Image

from jaxsd.clip.images import resize_and_crop
from jaxsd.clip.pipeline import CLIP
from jaxsd.clip.tokens import tokenize
from jaxsd.clip.towers import TextModel
from jaxsd.runtime.bundled import TOY_MODEL
from jaxsd.toy import world
from tests.helpers import models

TEXTS = ["a red dog barking on the left at night", "", "zebra", "word " * 100]


def embeddings_of_torch(folder, tokens, pixels):
    model = transformers.CLIPModel.from_pretrained(folder).float().eval()
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor(tokens.astype(np.int64)), pixel_values=torch.tensor(pixels).permute(0, 3, 1, 2)
        )
    return out.text_embeds.numpy(), out.image_embeds.numpy()


def normalised(clip, pictures):
    mean, std = clip.preprocessing.image_mean, clip.preprocessing.image_std
    return ((pictures / 255 - np.array(mean)) / np.array(std)).astype(np.float32)


def test_random_model(tmp_path, rng):
    clip = models.clip()
    clip.save_pretrained(tmp_path)
    pictures = rng.integers(0, 256, (3, 32, 32, 3), np.uint8)
    text, image = embeddings_of_torch(tmp_path, tokenize(clip.tokenizer, TEXTS), normalised(clip, pictures))
    again = CLIP.from_pretrained(tmp_path)
    np.testing.assert_allclose(again.embed_text(TEXTS), text, atol=3e-6)
    np.testing.assert_allclose(again.embed_arrays(pictures), image, atol=3e-6)


def test_bundled_weights():
    clip = CLIP.from_pretrained(TOY_MODEL / "clip")
    pictures = world.images(world.scenes("test", 20))
    captions = world.captions("test", 20)
    tokens = tokenize(clip.tokenizer, captions)
    text, image = embeddings_of_torch(TOY_MODEL / "clip", tokens, normalised(clip, pictures))
    np.testing.assert_allclose(clip.embed_text(captions), text, atol=1e-4)
    np.testing.assert_allclose(clip.embed_arrays(pictures), image, atol=1e-4)


def test_text_files_of_either_transformers_generation_load(tmp_path):
    """transformers 5 writes the text tower without the prefix `text_model.` that older files have."""
    from safetensors.numpy import load_file

    from jaxsd.clip.params import TEXT_MAPPING
    from jaxsd.pretrained.mapping import export_parameters, import_parameters, parameters

    ours = models.stable_diffusion().text_encoder
    old = export_parameters(ours, TEXT_MAPPING)
    models.stable_diffusion().save_pretrained(tmp_path)
    transformers.CLIPTextModel.from_pretrained(tmp_path / "text_encoder").save_pretrained(tmp_path / "new")
    new = load_file(tmp_path / "new" / "model.safetensors")
    for source in (old, new):
        loaded = parameters(import_parameters(source, TEXT_MAPPING, ours))
        assert all(np.array_equal(loaded[name], value) for name, value in parameters(ours).items())


@pytest.mark.parametrize("legacy", [False, True])
def test_end_of_text_of_current_and_legacy_configs(legacy):
    config = dataclasses.replace(models.TEXT, eos_token_id=2 if legacy else 649)
    model = nnx.eval_shape(lambda: TextModel(config, rngs=nnx.Rngs(0)))
    assert model.end_of_text(jnp.array([[648, 3, 2, 649, 649], [648, 649, 0, 0, 0]])).tolist() == [3, 1]


@pytest.mark.parametrize("size", [(64, 64), (100, 50), (33, 70)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_pictures_of_any_kind_become_a_square(size, mode):
    assert resize_and_crop(Image.new(mode, size), 32).size == (32, 32)
