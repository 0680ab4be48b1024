"""The tables against every key of the published checkpoints, without their weights."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from flax import nnx

from jaxsd.clip import params as clip
from jaxsd.clip.towers import CLIPModel, TextModel, VisionConfig
from jaxsd.diffusion import single_file
from jaxsd.diffusion import unet_params as unet
from jaxsd.diffusion import vae_params as vae
from jaxsd.diffusion.pipeline import SD15_TEXT
from jaxsd.diffusion.unet import UNet, UNetConfig
from jaxsd.diffusion.vae import VAE, VAEConfig
from jaxsd.pretrained import recognize as foreign
from jaxsd.pretrained.mapping import TRANSFORMS, match, parameters, translate
from tests.references import manifests

VISION = VisionConfig(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16)
SINGLE_FILE = single_file.rules(UNetConfig(), len(VAEConfig().block_out_channels))
CASES = {
    "unet": (unet.RULES, ()),
    "vae": (vae.RULES, ()),
    "text_encoder": (clip.TEXT_RULES, clip.IGNORE),
    "clip": (clip.RULES, clip.IGNORE),
    "single_file": (SINGLE_FILE, single_file.IGNORE),
}


@pytest.fixture(scope="module")
def wanted():
    """Our parameters, abstract, by manifest."""
    make = {
        "unet": lambda: UNet(UNetConfig(), rngs=nnx.Rngs(0)),
        "vae": lambda: VAE(VAEConfig(), rngs=nnx.Rngs(0)),
        "text_encoder": lambda: TextModel(SD15_TEXT, rngs=nnx.Rngs(0)),
        "clip": lambda: CLIPModel(SD15_TEXT, VISION, 768, rngs=nnx.Rngs(0)),
    }
    ours = {name: parameters(nnx.eval_shape(maker)) for name, maker in make.items()}
    ours["single_file"] = {
        f"{part}.{name}": value for part in ("unet", "vae", "text_encoder") for name, value in ours[part].items()
    }
    return ours


def abstract(manifest):
    return {key: SimpleNamespace(shape=shape) for key, shape in manifest.items()}


@pytest.mark.parametrize("name", CASES)
def test_every_key_has_its_parameter_and_every_parameter_its_key(name, wanted):
    rules, ignore = CASES[name]
    manifest = manifests.read(name)
    found = match(abstract(manifest), rules, wanted[name], ignore, name)
    assert found.keys() == wanted[name].keys()
    for target, (key, _) in found.items():
        back, rule = translate(rules, target, backwards=True)
        assert back == key
        shape = TRANSFORMS[rule.transform][1](np.broadcast_to(False, wanted[name][target].shape)).shape
        assert shape == manifest[key]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_a_changed_manifest_is_refused(name, change, wanted):
    rules, ignore = CASES[name]
    source = abstract(manifests.read(name))
    key = next(key for key in source if key.endswith("bias"))
    if change == "missing":
        del source[key]
    elif change == "unknown":
        source[key + "2"] = source[key]
    else:
        source[key] = SimpleNamespace(shape=(1, 2))
    with pytest.raises(ValueError, match=f"does not fit: .*{key}") as error:
        match(source, rules, wanted[name], ignore, name)
    assert ";" not in str(error.value)


@pytest.mark.parametrize("name", CASES)
def test_no_published_key_looks_foreign(name):
    assert foreign.recognise_keys(manifests.read(name), foreign.KEYS) is None


def test_the_vae_as_published_before_diffusers_0_18(wanted):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    source = abstract(manifests.read("vae"))
    for new, name in old.items():
        for key in [key for key in source if f".{new}." in key]:
            source[key.replace(f".{new}.", f".{name}.")] = source.pop(key)
    assert sum("query" in key for key in source) == 4
    assert match(source, vae.RULES, wanted["vae"]).keys() == wanted["vae"].keys()


@pytest.mark.parametrize(
    "part, convert, rules",
    [("unet", convert_ldm_unet_checkpoint, unet.RULES), ("vae", convert_ldm_vae_checkpoint, vae.RULES)],
)
def test_a_key_of_the_single_file_means_what_it_means_to_diffusers(part, convert, rules):
    """Also where shapes are alike: each tensor holds its key's number, to be found again behind diffusers' reader."""
    keys = list(manifests.read("single_file"))
    numbered = {key: torch.full((1, 1, 1, 1), number) for number, key in enumerate(keys)}
    read = convert(numbered, {"layers_per_block": 2, "down_block_types": (0,) * 4, "up_block_types": (0,) * 4})
    assert len(read) == len(manifests.read(part))
    for name, tensor in read.items():
        ours, _ = translate(SINGLE_FILE, keys[int(tensor)])
        assert ours == f"{part}.{translate(rules, name)[0]}"
