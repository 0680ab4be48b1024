"""The models that `prepare` computes features with: which, and what becomes of features that are not finite."""

import shutil
import sys
from functools import partial

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from jaxsd.clip.pipeline import CLIP
from jaxsd.data import __main__ as command
from jaxsd.data import prepare as prepare_module
from jaxsd.data.columns import open_columns
from jaxsd.data.features import FeatureTowers
from jaxsd.data.info import info
from jaxsd.data.prepare import prepare_dataset
from jaxsd.diffusion.vae import VAE
from jaxsd.evaluation.inputs import open_evaluation_split
from jaxsd.runtime.bundled import TOY_MODEL
from jaxsd.runtime.files import read_json
from jaxsd.training.frozen_models import load_models
from tests.helpers import models
from tests.helpers.data_files import write_files

pytestmark = pytest.mark.slow

SPLITS = {"validation": "0", "test": "0", "workers": 0}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A manifest of twelve rows, a CLIP and a Stable Diffusion."""
    folder = tmp_path_factory.mktemp("models")
    models.clip().save_pretrained(folder / "clip")
    models.stable_diffusion().save_pretrained(folder / "diffusion")
    manifest, _ = write_files(folder / "source", 12, 0.0)
    prepare_dataset(manifest, folder / "whole", clip=str(folder / "clip"), **SPLITS)
    return folder


@pytest.fixture
def clip(saved, tmp_path):
    return shutil.copytree(saved / "clip", tmp_path / "clip")


def prepare(saved, out, clip, **options):
    assert prepare_dataset(saved / "source" / "manifest.csv", out, clip=str(clip), **SPLITS, **options)
    info(out)
    return open_columns(out / "train"), read_json(out / "train" / "dataset.json")


def assert_same_text(columns, saved):
    for name in ("text", "image", "tokens"):
        np.testing.assert_array_equal(columns[name], open_columns(saved / "whole" / "train")[name])


@pytest.mark.parametrize(("count", "batches"), [(1, [8]), (12, [8, 8]), (64, [64]), (196, [64, 64, 64, 8])])
def test_few_examples_cost_what_they_weigh(monkeypatch, count, batches):
    """No batch is filled up to a chunk, and few sizes are compiled."""
    clip, sizes, devices = models.clip(), [], jax.local_device_count()

    def embed(tokens):
        sizes.append(len(tokens))
        return jnp.ones((len(tokens), 4))

    monkeypatch.setattr(clip, "embed_tokens", embed)
    assert len(FeatureTowers(clip).embed_text(["a dog"] * count * devices)) == count * devices
    assert sizes == [size * devices for size in batches]


def test_the_weights_of_a_variant(saved, clip, tmp_path):
    weights = clip / "model.safetensors"
    shutil.copy(weights, clip / "model.fp16.safetensors")
    weights.rename(clip / "model.other.safetensors")
    with pytest.raises(ValueError, match="weights of several variants; choose a variant: fp16, other"):
        prepare(saved, tmp_path / "out", clip)
    assert not (tmp_path / "out").exists()
    columns, metadata = prepare(saved, tmp_path / "out", clip, variant="fp16")
    assert_same_text(columns, saved)
    assert load_models(metadata, with_diffusion=False, dtype="float32").clip.model
    with pytest.raises(ValueError, match=r"made otherwise \(variant was 'fp16', is 'other'\)"):
        prepare(saved, tmp_path / "out", clip, variant="other")


def test_a_revision_on_the_hub(saved, clip, tmp_path, monkeypatch):
    asked = []

    def download(repository, *, revision, allow_patterns):
        asked.append((repository, revision))
        return str(clip)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    columns, metadata = prepare(saved, tmp_path / "out", "owner/model", revision="v2")
    assert_same_text(columns, saved)
    assert asked[0] == ("owner/model", "v2") and metadata["clip_revision"] == clip.name
    assert {revision for _, revision in asked[1:]} == {clip.name}


def test_another_tokenizer(saved, clip, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (clip / name).unlink()
    with pytest.raises(FileNotFoundError, match="no tokenizer here"):
        prepare(saved, tmp_path / "out", clip)
    tokenizer = shutil.copytree(models.TOKENIZER, tmp_path / "tokenizer")
    columns, metadata = prepare(saved, tmp_path / "out", clip, tokenizer=str(tokenizer))
    assert_same_text(columns, saved)
    assert load_models(metadata, with_diffusion=False, dtype="float32").clip.tokenizer
    assert open_evaluation_split(tmp_path / "out" / "train").clip.tokenizer
    # Where it lies is no property of the data, but what it is.
    moved = tokenizer.rename(tmp_path / "moved")
    again = partial(prepare_dataset, saved / "source" / "manifest.csv", tmp_path / "out", clip=str(clip), **SPLITS)
    assert not again(tokenizer=str(moved))
    with (moved / "tokenizer_config.json").open("a") as file:
        file.write("\n")
    with pytest.raises(ValueError, match="tokenizer_sha256 was"):
        again(tokenizer=str(moved))


@pytest.mark.long
def test_another_vae(saved, tmp_path):
    pipe = models.stable_diffusion()
    pipe.vae = models.randomised(partial(VAE, models.AUTOENCODER), 7)
    pipe.save_pretrained(tmp_path / "other")
    options = {"diffusion": str(saved / "diffusion"), "size": 32}
    with pytest.raises(ValueError, match="--vae says whose latents are stored, which needs --latents"):
        prepare(saved, tmp_path / "out", saved / "clip", vae=str(tmp_path / "other"))
    columns, _ = prepare(saved, tmp_path / "own", saved / "clip", **options)
    others, metadata = prepare(saved, tmp_path / "out", saved / "clip", **options, vae=str(tmp_path / "other" / "vae"))
    wanted, _ = prepare(saved, tmp_path / "wanted", saved / "clip", diffusion=str(tmp_path / "other"), size=32)
    np.testing.assert_array_equal(others["latents"], wanted["latents"])
    assert not np.array_equal(others["latents"], columns["latents"])
    loaded = [
        load_models(metadata, with_diffusion=True, dtype="float32").diffusion,
        open_evaluation_split(tmp_path / "out" / "train").pipe,
    ]
    for found in loaded:
        np.testing.assert_array_equal(found.vae.quant_conv.kernel[...], pipe.vae.quant_conv.kernel[...])


def test_flags_say_which_models(monkeypatch):
    given = {}
    monkeypatch.setattr(prepare_module, "prepare_dataset", lambda *_, **options: given.update(options))
    monkeypatch.setattr(prepare_module, "summarize", str)
    flags = "--clip a --revision b --variant c --tokenizer d --latents --model e --vae f"
    monkeypatch.setattr(sys, "argv", ["jaxsd data", "prepare", "m.csv", "--out", "out", *flags.split()])
    command.main()
    wanted = {"clip": "a", "revision": "b", "variant": "c", "tokenizer": "d", "diffusion": "e", "vae": "f"}
    assert wanted.items() <= given.items()


@pytest.mark.parametrize(
    ("tower", "network"), [("text_model", "CLIP's text tower"), ("vision_model", "CLIP's vision tower")]
)
def test_features_that_are_not_finite(saved, tmp_path, monkeypatch, tower, network):
    damaged = models.clip()
    layer = getattr(damaged.model, tower).layers[0].mlp.fc1
    layer.bias[...] = jnp.asarray(layer.bias[...]).at[0].set(np.nan)
    message = f"{network} makes values that are not finite .*: its weights or its input are damaged"
    with pytest.raises(ValueError, match=message):
        damaged.embed_text(["a dog"])
        damaged.embed_images([Image.new("RGB", (40, 40))])
    monkeypatch.setattr(prepare_module.CLIP, "from_pretrained", lambda *_, **__: damaged)
    with pytest.raises(ValueError, match=message):
        prepare(saved, tmp_path / "out", saved / "clip")
    assert not list((tmp_path / "out").rglob("records/0*.json"))


def test_latents_that_are_not_finite(saved, tmp_path, monkeypatch):
    vae = models.randomised(partial(VAE, models.AUTOENCODER), 7)
    vae.quant_conv.bias[...] = jnp.asarray(vae.quant_conv.bias[...]).at[0].set(np.inf)
    monkeypatch.setattr(prepare_module, "load_vae", lambda *_: vae)
    with pytest.raises(ValueError, match="the VAE's encoder makes values that are not finite"):
        prepare(saved, tmp_path / "out", saved / "clip", diffusion=str(TOY_MODEL), size=32)


def test_16_bit_features_say_what_to_try():
    clip = models.clip()
    half = nnx.clone(clip.model)
    half.text_projection.dtype = np.float16
    half.text_projection.kernel[...] = half.text_projection.kernel[...] * 1e6
    with pytest.raises(ValueError, match="computes in float16, which may overflow: try another dtype, float32"):
        CLIP(half, clip.tokenizer, clip.preprocessing).embed_text(["a dog"])
