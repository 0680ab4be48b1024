"""The tables against every key of the published checkpoints, without their weights."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

from jaxsd.clip.params import CLIP_IGNORED, CLIP_MAPPING, TEXT_MAPPING
from jaxsd.clip.towers import CLIPModel, TextModel, VisionConfig
from jaxsd.diffusion.loading import SD15_TEXT, SD15_UNET, SD15_VAE
from jaxsd.diffusion.single_file import SINGLE_FILE_IGNORED, single_file_mapping
from jaxsd.diffusion.unet import UNet
from jaxsd.diffusion.unet_params import UNET_MAPPING
from jaxsd.diffusion.vae import VAE
from jaxsd.diffusion.vae_params import VAE_MAPPING
from jaxsd.pretrained.mapping import TRANSFORMS, abstract_model, match, parameters, translate
from jaxsd.pretrained.recognize import OTHER_MODELS, recognize_keys
from tests.references import manifests

pytestmark = pytest.mark.slow

VISION = VisionConfig(
    hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14
)
SINGLE_FILE = single_file_mapping(SD15_UNET, len(SD15_VAE.block_out_channels))
CASES = {
    "unet": (UNET_MAPPING, ()),
    "vae": (VAE_MAPPING, ()),
    "text_encoder": (TEXT_MAPPING, CLIP_IGNORED),
    "clip": (CLIP_MAPPING, CLIP_IGNORED),
    "single_file": (SINGLE_FILE, SINGLE_FILE_IGNORED),
}


@pytest.fixture(scope="module")
def wanted():
    """Our parameters, abstract, by manifest."""
    make = {
        "unet": partial(UNet, SD15_UNET),
        "vae": partial(VAE, SD15_VAE),
        "text_encoder": partial(TextModel, SD15_TEXT),
        "clip": partial(CLIPModel, SD15_TEXT, VISION, 768),
    }
    ours = {name: parameters(abstract_model(maker)) for name, maker in make.items()}
    ours["single_file"] = {
        f"{part}.{name}": value for part in ("unet", "vae", "text_encoder") for name, value in ours[part].items()
    }
    return ours


def shapes(manifest):
    return {key: SimpleNamespace(shape=shape) for key, shape in manifest.items()}


@pytest.mark.parametrize("name", CASES)
def test_every_key_has_its_parameter_and_every_parameter_its_key(name, wanted):
    mapping, ignore = CASES[name]
    manifest = manifests.read(name)
    found = match(shapes(manifest), mapping, wanted[name], ignore, name)
    assert found.keys() == wanted[name].keys()
    for target, (key, _) in found.items():
        back, rule = translate(mapping, target, backwards=True)
        assert back == key
        shape = TRANSFORMS[rule.transform][1](np.broadcast_to(False, wanted[name][target].shape)).shape
        assert shape == manifest[key]


@pytest.mark.parametrize("name", [*list(CASES)[:-1], pytest.param("single_file", marks=pytest.mark.long)])
@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_a_changed_manifest_is_refused(name, change, wanted):
    mapping, ignore = CASES[name]
    source = shapes(manifests.read(name))
    key = next(key for key in source if key.endswith("bias"))
    if change == "missing":
        del source[key]
    elif change == "unknown":
        source[key + "2"] = source[key]
    else:
        source[key] = SimpleNamespace(shape=(1, 2))
    with pytest.raises(ValueError, match=f"does not fit: .*{key}") as error:
        match(source, mapping, wanted[name], ignore, name)
    assert ";" not in str(error.value)


@pytest.mark.parametrize("name", CASES)
def test_no_published_key_tells_of_another_model(name):
    assert recognize_keys(manifests.read(name), OTHER_MODELS) is None


def test_the_vae_as_published_before_diffusers_0_18(wanted):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    source = shapes(manifests.read("vae"))
    for new, name in old.items():
        for key in [key for key in source if f".{new}." in key]:
            source[key.replace(f".{new}.", f".{name}.")] = source.pop(key)
    assert sum("query" in key for key in source) == 4
    assert match(source, VAE_MAPPING, wanted["vae"]).keys() == wanted["vae"].keys()


@pytest.mark.parametrize(
    "part, convert, mapping",
    [("unet", convert_ldm_unet_checkpoint, UNET_MAPPING), ("vae", convert_ldm_vae_checkpoint, VAE_MAPPING)],
)
def test_a_key_of_the_single_file_means_what_it_means_to_diffusers(part, convert, mapping):
    """Also where shapes are alike: each tensor holds its key's number, to be found again behind diffusers' reader."""
    keys = list(manifests.read("single_file"))
    numbered = {key: torch.full((1, 1, 1, 1), number) for number, key in enumerate(keys)}
    read = convert(numbered, {"layers_per_block": 2, "down_block_types": (0,) * 4, "up_block_types": (0,) * 4})
    assert len(read) == len(manifests.read(part))
    for name, tensor in read.items():
        ours, _ = translate(SINGLE_FILE, keys[int(tensor)])
        assert ours == f"{part}.{translate(mapping, name)[0]}"
