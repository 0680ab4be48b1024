"""Loading Stable Diffusion: every layout gives the same parameters, and what is no such checkpoint is told so."""

import json
import re
import shutil
import sys
from dataclasses import replace
from fnmatch import fnmatch
from functools import partial

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from huggingface_hub import errors
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch
from tokenizers.pre_tokenizers import ByteLevel

from jaxsd.clip.pipeline import CLIP
from jaxsd.clip.tokens import load_tokenizer, tokenize
from jaxsd.diffusion import loading, pipeline
from jaxsd.diffusion.loading import load_single_file, read_unet_config, require_tokenizer
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.diffusion.samplers import make_sampler
from jaxsd.diffusion.vae import VAE
from jaxsd.pretrained.mapping import parameters
from jaxsd.pretrained.recognize import OTHER_MODELS, recognize_keys
from tests.helpers import models

pytestmark = pytest.mark.slow

TINY = partial(load_single_file, unet_config=models.UNET, vae_config=models.AUTOENCODER, text_config=models.TEXT)
NETWORKS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}

# diffusers' names in the tiny model -> those of the first code, counted by hand.
UNET_BLOCKS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.attentions.0": "input_blocks.1.1",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.1.conv",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.attentions.0": "output_blocks.2.1",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
    "up_blocks.1.attentions.1": "output_blocks.3.1",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
UNET_LAYERS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_BLOCKS = {
    **{f"encoder.down_blocks.{n}.resnets.0": f"encoder.down.{n}.block.0" for n in range(3)},
    **{f"encoder.down_blocks.{n}.downsamplers.0.conv": f"encoder.down.{n}.downsample.conv" for n in range(2)},
    **{f"decoder.up_blocks.{n}.resnets.{m}": f"decoder.up.{2 - n}.block.{m}" for n in range(3) for m in range(2)},
    **{f"decoder.up_blocks.{n}.upsamplers.0.conv": f"decoder.up.{2 - n}.upsample.conv" for n in range(2)},
    **{f"{half}.mid_block.resnets.{n}": f"{half}.mid.block_{n + 1}" for half in ("encoder", "decoder") for n in (0, 1)},
    **{f"{half}.mid_block.attentions.0": f"{half}.mid.attn_1" for half in ("encoder", "decoder")},
    **{f"{half}.conv_norm_out": f"{half}.norm_out" for half in ("encoder", "decoder")},
    **{name: name for name in ("encoder.conv_in", "encoder.conv_out", "decoder.conv_in", "decoder.conv_out")},
    **{name: name for name in ("quant_conv", "post_quant_conv")},
}
VAE_LAYERS = {
    "conv_shortcut": "nin_shortcut",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
LEFTOVERS = {
    "model_ema.decay": np.array(0.9, np.float32),
    "model_ema.diffusion_modelinput_blocks00weight": np.zeros(3, np.float32),
    "alphas_cumprod_prev": np.zeros(1000, np.float32),
    "sqrt_recipm1_alphas_cumprod": np.zeros(1000, np.float32),
    "posterior_log_variance_clipped": np.zeros(1000, np.float32),
    "first_stage_model.loss.logvar": np.zeros((), np.float32),
    "cond_stage_model.transformer.text_model.embeddings.position_ids": np.arange(77)[None],
}


def renamed(tensors, prefix, blocks, layers):
    out = {}
    for key, value in tensors.items():
        block = next(block for block in blocks if key.startswith(f"{block}."))
        layer, leaf = key.removeprefix(f"{block}.").rpartition(".")[::2]
        name = ".".join(filter(None, (blocks[block], layers.get(layer, layer), leaf)))
        out[f"{prefix}.{name}"] = value
    return out


def first_code_names(folder):
    """The tensors of a diffusers folder as the first Stable Diffusion code names and shapes them."""
    unet, vae, text = (load_file(folder / part / name) for part, name in NETWORKS.items())
    unet = renamed(unet, "model.diffusion_model", UNET_BLOCKS, UNET_LAYERS)
    vae = renamed(vae, "first_stage_model", VAE_BLOCKS, VAE_LAYERS)
    vae = {
        k: v[:, :, None, None] if re.search(r"attn_1\.\w+\.weight", k) and v.ndim == 2 else v for k, v in vae.items()
    }
    return unet | vae | {f"cond_stage_model.transformer.{key}": value for key, value in text.items()}


@pytest.fixture(scope="module")
def pipe():
    return models.stable_diffusion()


@pytest.fixture(scope="module")
def saved(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of its own for a test to change."""
    return shutil.copytree(saved, tmp_path / "sd")


def assert_same(ours, expected, convert=lambda value: value):
    for part in NETWORKS:
        found, wanted = parameters(getattr(ours, part)), parameters(getattr(expected, part))
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            assert found[key].dtype == jnp.float32
            assert np.array_equal(found[key], convert(np.asarray(value))), key


def test_single_file(pipe, saved, tmp_path, monkeypatch):
    path = tmp_path / "v1-5-pruned.safetensors"
    save_file(first_code_names(saved) | LEFTOVERS, path)
    monkeypatch.setattr(pipeline, "load_single_file", TINY)
    loaded = StableDiffusion.from_pretrained(path, tokenizer=models.TOKENIZER)
    assert_same(loaded, pipe)
    assert np.array_equal(loaded.encode_text(["a dog"]), pipe.encode_text(["a dog"]))


def test_a_single_file_that_lacks_a_key_and_has_another(saved, tmp_path):
    tensors = first_code_names(saved)
    tensors["first_stage_model.surplus"] = tensors.pop("first_stage_model.decoder.up.2.block.1.conv1.bias")
    path = tmp_path / "half.safetensors"
    save_file(tensors, path)
    with pytest.raises(ValueError) as error:
        TINY(path, jnp.float32)
    assert str(error.value) == (
        f"{path} does not fit: missing key first_stage_model.decoder.up.2.block.1.conv1.bias; "
        "unknown key first_stage_model.surplus"
    )


def shard(path, index, name):
    """Cut a safetensors file in two, with the index that names them."""
    tensors = load_file(path)
    path.unlink()
    halves = np.array_split(sorted(tensors), 2)
    weight_map = {}
    for number, keys in enumerate(halves, 1):
        file = name.format(f"{number:05}-of-00002")
        save_file({key: tensors[key] for key in keys.tolist()}, path.parent / file)
        weight_map |= dict.fromkeys(keys.tolist(), file)
    (path.parent / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_shards(pipe, folder):
    for part, name in NETWORKS.items():
        shard(folder / part / name, f"{name}.index.json", name.replace(".", "-{}."))
    assert_same(StableDiffusion.from_pretrained(folder), pipe)
    first, missing = (folder / "unet" / f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in "12")
    both = {"conv_in.bias": load_file(first)["conv_in.bias"]}
    save_file(load_file(missing) | both, missing)
    with pytest.raises(ValueError, match=f"^{missing}: conv_in.bias is in another file of these weights too$"):
        StableDiffusion.from_pretrained(folder)
    missing.unlink()
    with pytest.raises(FileNotFoundError, match=f"^{missing}: no such file, though .*index.json names it$"):
        StableDiffusion.from_pretrained(folder)


@pytest.mark.parametrize("weight_map", [None, {}, {"a": 1}, {"a": "../a.safetensors"}])
def test_an_index_that_is_none(folder, weight_map):
    (folder / "unet" / NETWORKS["unet"]).unlink()
    index = folder / "unet" / f"{NETWORKS['unet']}.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match=f"^{index}: "):
        StableDiffusion.from_pretrained(folder)


@pytest.mark.parametrize("sharded", [None, ".safetensors.index.fp16.json", ".fp16.safetensors.index.json"])
def test_fp16_variant(pipe, folder, sharded):
    pipe.save_pretrained(folder, dtype=np.float16)
    for part, name in NETWORKS.items():
        path = (folder / part / name).rename(folder / part / name.replace(".", ".fp16."))
        if sharded:
            shard(path, name.replace(".safetensors", sharded), name.replace(".", ".fp16-{}."))
    loaded = StableDiffusion.from_pretrained(folder, variant="fp16")
    assert_same(loaded, pipe, lambda value: value.astype(np.float16))
    with pytest.warns(UserWarning, match="unet has weights of the variant fp16 alone, which are taken"):
        assert_same(StableDiffusion.from_pretrained(folder), loaded)
    with pytest.raises(ValueError, match="unet has no weights of the variant bf16; choose a variant: fp16$"):
        StableDiffusion.from_pretrained(folder, variant="bf16")
    unet = folder / "unet"
    next(unet.glob("*.safetensors")).with_name("diffusion_pytorch_model.ema.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="unet has weights of several variants; choose a variant: ema, fp16$"):
        StableDiffusion.from_pretrained(folder)


def to_torch(path):
    return {key: torch.from_numpy(value) for key, value in load_file(path).items()}


def to_bin(folder, change=lambda tensors: tensors):
    for part, name in NETWORKS.items():
        path = folder / part / name
        torch.save(change(to_torch(path)), path.with_name(name.replace("model.safetensors", "model.bin")))
        path.unlink()
    (folder / "text_encoder" / "model.bin").rename(folder / "text_encoder" / "pytorch_model.bin")


def test_torch_files(pipe, folder):
    to_bin(folder)
    assert_same(StableDiffusion.from_pretrained(folder), pipe)


def test_torch_files_without_torch(folder, monkeypatch):
    to_bin(folder)
    monkeypatch.setitem(sys.modules, "torch", None)
    path = folder / "unet" / "diffusion_pytorch_model.bin"
    with pytest.raises(ValueError) as error:
        StableDiffusion.from_pretrained(folder)
    assert str(error.value) == (
        f"{path}: PyTorch files need torch 2.10 or newer, which is not installed; safetensors files need no torch"
    )


def test_torch_files_of_an_older_torch(folder, monkeypatch):
    to_bin(folder)
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(ValueError, match=r"^.*unet/diffusion_pytorch_model\.bin: .* 2\.10 or newer; 2\.9\.1\+cpu is"):
        StableDiffusion.from_pretrained(folder)


def test_torch_files_that_hold_more_than_tensors(folder):
    to_bin(folder, lambda tensors: tensors | {"epoch": 3})
    with pytest.raises(
        ValueError, match=r"unet/diffusion_pytorch_model\.bin must hold nothing but tensors, unlike epoch"
    ):
        StableDiffusion.from_pretrained(folder)


def test_bfloat16(pipe, folder):
    path = folder / "unet" / NETWORKS["unet"]
    save_torch({key: value.bfloat16() for key, value in to_torch(path).items()}, path)
    loaded = StableDiffusion.from_pretrained(folder, dtype=jnp.bfloat16)
    kernel = parameters(loaded.unet)["conv_in.kernel"]
    assert loaded.unet.dtype == kernel.dtype == jnp.bfloat16
    assert np.array_equal(kernel, parameters(pipe.unet)["conv_in.kernel"].astype(jnp.bfloat16))


def test_whole_numbers_are_no_weights(folder):
    path = folder / "unet" / NETWORKS["unet"]
    save_file(load_file(path) | {"conv_in.bias": np.zeros(16, np.int8)}, path)
    with pytest.raises(ValueError, match=f"^{path}: conv_in.bias is stored as I8; allowed: F64, F32, F16, BF16$"):
        StableDiffusion.from_pretrained(folder)


FOREIGN = {
    "lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight": "a LoRA, which is a change to a model",
    "unet.down_blocks.0.attentions.0.proj_in.lora_A.weight": "a LoRA, which is a change to a model",
    "unet.mid_block.attn2.processor.to_q_lora.up.weight": "a LoRA, which is a change to a model",
    "control_model.input_blocks.0.0.weight": "a ControlNet",
    "emb_params": "a textual inversion",
    "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": "Stable Diffusion XL",
    "cond_stage_model.model.transformer.resblocks.0.ln_1.weight": "Stable Diffusion 2",
    "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": "Stable Diffusion 3",
    "double_blocks.0.img_attn.qkv.weight": "Flux",
    "down_blocks.0.resnets.0.conv1.weight": "the U-Net alone of a diffusers folder",
    "decoder.mid.block_1.conv1.weight": "a VAE alone",
    "text_model.final_layer_norm.weight": "CLIP or a text encoder alone",
}


def test_flux_is_not_taken_for_the_model_it_shares_names_with():
    keys = ["transformer_blocks.0.attn.add_q_proj.weight", "single_transformer_blocks.0.attn.to_q.weight"]
    assert recognize_keys(keys, OTHER_MODELS) == "Flux"
    assert recognize_keys(keys[:1], OTHER_MODELS) == "Stable Diffusion 3"


@pytest.mark.parametrize("key", FOREIGN)
def test_foreign_single_files(tmp_path, key):
    path = tmp_path / "model.safetensors"
    save_file({"model.diffusion_model.time_embed.0.weight": np.zeros(1), key: np.zeros(1)}, path)
    with pytest.raises(ValueError) as error:
        StableDiffusion.from_pretrained(path)
    assert str(error.value) == f"{path} is {FOREIGN[key]}, not Stable Diffusion 1.x"


@pytest.mark.parametrize(
    "config, kind",
    [
        ({"addition_embed_type": "text_time"}, "Stable Diffusion XL"),
        ({"cross_attention_dim": 2048}, "Stable Diffusion XL"),
        ({"cross_attention_dim": 1024}, "Stable Diffusion 2"),
    ],
)
def test_foreign_unets(folder, config, kind):
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    with pytest.raises(ValueError) as error:
        StableDiffusion.from_pretrained(folder)
    assert str(error.value) == f"{path} is that of {kind}, not Stable Diffusion 1.x"


@pytest.mark.parametrize(
    "name, kind", [("SD3Transformer2DModel", "Stable Diffusion 3"), ("FluxTransformer2DModel", "Flux")]
)
def test_folders_with_a_transformer(tmp_path, name, kind):
    path = tmp_path / "transformer" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"_class_name": name}))
    with pytest.raises(ValueError, match=f"^{path} is that of {kind}, not Stable Diffusion 1.x$"):
        StableDiffusion.from_pretrained(tmp_path)


def test_a_lora_in_place_of_the_unet(folder):
    path = folder / "unet" / NETWORKS["unet"]
    save_file({"conv_in.lora_A.weight": np.zeros(1)}, path)
    with pytest.raises(ValueError, match=f"^{path} is a LoRA, which is a change to a model, not Stable Diffusion 1.x$"):
        StableDiffusion.from_pretrained(folder)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is truncated or damaged, or no safetensors file: header too small"),
        ("Ein Text, größer als acht Zeichen.\n".encode(), "is a text file, not a safetensors file"),
        (LFS, "is a pointer of Git LFS, not the file itself; run `git lfs pull` to get the file"),
        (b"PK\x03\x04" + bytes(60), "is a PyTorch file named like a safetensors file"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9" + bytes(60), "is a PyTorch file named like a safetensors file"),
        (b"\x80" + bytes(7) + b"{", "is truncated or damaged, or no safetensors file: invalid header length"),
        (b"\xff" * 100, "is truncated or damaged, or no safetensors file: header too large"),
    ],
)
@pytest.mark.parametrize("single", [True, False])
def test_what_is_no_safetensors_file(folder, content, message, single):
    path = folder / "unet" / NETWORKS["unet"]
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        StableDiffusion.from_pretrained(path if single else folder)
    assert str(error.value) == f"{path} {message}"


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_truncated_files(folder, suffix):
    if suffix == ".bin":
        to_bin(folder)
    path = folder / "unet" / f"diffusion_pytorch_model{suffix}"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"^{path} is truncated or damaged"):
        StableDiffusion.from_pretrained(folder)


def test_a_file_of_another_kind(tmp_path):
    path = tmp_path / "model.ckpt"
    path.write_bytes(b"PK")
    with pytest.raises(ValueError, match=f"^{path}: Stable Diffusion 1.x in one file must be a .safetensors file$"):
        StableDiffusion.from_pretrained(path)


class Hub:
    """huggingface_hub.snapshot_download with a folder for a hub."""

    def __init__(self, remote, cache):
        self.remote, self.snapshot, self.revisions = remote, cache / "0123456789abcdef", []

    def __call__(self, repository, *, revision, allow_patterns):
        assert repository == "owner/model"
        self.revisions.append(revision)
        self.snapshot.mkdir(parents=True, exist_ok=True)
        for path in self.files(self.remote):
            if any(fnmatch(path, pattern) for pattern in allow_patterns):
                (self.snapshot / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.remote / path, self.snapshot / path)
        return str(self.snapshot)

    def files(self, folder):
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    hub = Hub(folder, tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    return hub


def test_only_what_is_needed_is_downloaded(pipe, hub):
    needed = set(hub.files(hub.remote)) - {"model_index.json"}
    for name in (
        "v1-5-pruned.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "safety_checker/config.json",
    ):
        (hub.remote / name).parent.mkdir(exist_ok=True)
        (hub.remote / name).write_text("never read")
    for name in ("unet/diffusion_pytorch_model.bin", "text_encoder/pytorch_model.bin"):
        (hub.remote / name).write_text("never read")
    assert_same(StableDiffusion.from_pretrained("owner/model", revision="main"), pipe)
    assert set(hub.files(hub.snapshot)) == needed
    assert hub.revisions == ["main", hub.snapshot.name]  # the weights of the commit that the configs are of


def test_torch_files_are_downloaded_where_there_is_nothing_else(pipe, hub):
    to_bin(hub.remote)
    assert_same(StableDiffusion.from_pretrained("owner/model"), pipe)
    assert "unet/diffusion_pytorch_model.bin" in hub.files(hub.snapshot)


def test_shards_are_downloaded(pipe, hub):
    name = NETWORKS["unet"]
    shard(hub.remote / "unet" / name, f"{name}.index.json", name.replace(".", "-{}."))
    assert_same(StableDiffusion.from_pretrained("owner/model"), pipe)


def test_no_weights_of_another_model_are_downloaded(hub):
    path = hub.remote / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cross_attention_dim": 2048}))
    with pytest.raises(ValueError, match="unet/config.json is that of Stable Diffusion XL"):
        StableDiffusion.from_pretrained("owner/model")
    assert not any(name.endswith(".safetensors") for name in hub.files(hub.snapshot))


def test_clip_of_the_hub(hub, folder):
    shutil.rmtree(folder)
    models.clip().save_pretrained(folder)
    (folder / "flax_model.msgpack").write_text("never read")
    loaded = CLIP.from_pretrained("owner/model")
    assert np.array_equal(loaded.embed_text(["a dog"]), models.clip().embed_text(["a dog"]))
    assert "flax_model.msgpack" not in hub.files(hub.snapshot)


def test_added_tokens_are_downloaded(hub, folder):
    """Without them, a word of one's own would be read letter by letter."""
    shutil.rmtree(folder)
    (vocabulary(folder) / "added_tokens.json").write_text(json.dumps({"<concept>": len(models.TOKENS)}))
    larger = replace(models.TEXT, vocab_size=len(models.TOKENS) + 1)
    ids = tokenize(load_tokenizer("owner/model", larger), ["<concept>"])
    assert ids[0, :3].tolist() == [models.TOKENS.bos_token_id, len(models.TOKENS), models.TOKENS.eos_token_id]
    assert set(hub.files(hub.snapshot)) == {"vocab.json", "merges.txt", "added_tokens.json"}


def refusal(kind):
    error = kind.__new__(kind)
    Exception.__init__(error, "a long\nstory")
    return error


@pytest.mark.parametrize(
    "error, message",
    [
        (errors.GatedRepoError, "is gated: accept its terms at https://huggingface.co/owner/model and set HF_TOKEN"),
        (errors.RepositoryNotFoundError, "is no folder here and no repository on the hub that can be seen; a private"),
        (errors.RevisionNotFoundError, "has no such revision"),
        (errors.LocalEntryNotFoundError, "is no folder here, not whole in the cache, and cannot be downloaded: "),
        (OSError, "cannot be downloaded: a long"),
        (RuntimeError, "cannot be downloaded: there is no home folder to keep it in; HF_HOME names another one"),
    ],
)
@pytest.mark.parametrize("model", [StableDiffusion, CLIP])
def test_what_the_hub_refuses_is_one_sentence(monkeypatch, model, error, message):
    def refuse(*_, **__):
        raise refusal(error)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(FileNotFoundError) as found:
        model.from_pretrained("owner/model", revision="main")
    assert str(found.value).startswith(f"owner/model (revision main) {message}")
    assert "\n" not in str(found.value)


def test_clip_of_another_kind(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "siglip"}')
    with pytest.raises(ValueError, match="config.json: model_type is 'siglip'; allowed: 'clip'$"):
        CLIP.from_pretrained(tmp_path)


def assert_vae(found, wanted):
    found, wanted = parameters(found), parameters(wanted)
    assert found.keys() == wanted.keys() and all(np.array_equal(found[key], wanted[key]) for key in wanted)


def other_vae(tmp_path):
    """Another VAE of the same size, in a folder and in files with both kinds of names."""
    other = models.randomised(partial(VAE, models.AUTOENCODER), 7)
    pipe = models.stable_diffusion()
    pipe.vae = other
    pipe.save_pretrained(tmp_path / "other")
    first_code = {k: v for k, v in first_code_names(tmp_path / "other").items() if k.startswith("first_stage_model.")}
    save_file(first_code, tmp_path / "prefixed.safetensors")
    bare = {key.removeprefix("first_stage_model."): value for key, value in first_code.items()}
    save_file(bare, tmp_path / "bare.safetensors")
    return other


@pytest.mark.parametrize(
    "name",
    ["other", "other/vae", "other/vae/diffusion_pytorch_model.safetensors", "prefixed.safetensors", "bare.safetensors"],
)
def test_a_vae_in_place_of_the_folders(folder, tmp_path, name, monkeypatch):
    monkeypatch.setattr(loading, "SD15_VAE", models.AUTOENCODER)
    other = other_vae(tmp_path)
    shutil.rmtree(folder / "vae")
    assert_vae(StableDiffusion.from_pretrained(folder, vae=tmp_path / name).vae, other)
    with pytest.raises(FileNotFoundError, match="vae/config.json: no such file"):
        StableDiffusion.from_pretrained(folder)


def test_others_may_read_what_is_saved(saved):
    modes = {path.name: path.stat().st_mode & 0o777 for path in saved.rglob("*") if path.is_file()}
    assert modes["diffusion_pytorch_model.safetensors"] == modes["model_index.json"]


def test_a_single_file_without_a_vae_says_so(pipe, saved, tmp_path):
    other = other_vae(tmp_path)
    tensors = {k: v for k, v in first_code_names(saved).items() if not k.startswith("first_stage_model.")}
    path = tmp_path / "half.safetensors"
    save_file(tensors, path)
    message = r"half.safetensors holds no vae: no key begins with first_stage_model.; name one .*vae= \(--vae\)$"
    with pytest.raises(ValueError, match=message):
        StableDiffusion.from_pretrained(path)
    loaded = TINY(path, jnp.float32, vae=tmp_path / "other")
    assert_vae(loaded.vae, other)
    assert_vae(loaded.unet, pipe.unet)


def test_a_vae_that_does_not_fit(folder, tmp_path):
    other_vae(tmp_path)
    path = tmp_path / "other" / "vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"latent_channels": 16}))
    message = "the VAE's latent_channels is 16, but the U-Net's out_channels is 4$"
    with pytest.raises(ValueError, match=message):
        StableDiffusion.from_pretrained(folder, vae=tmp_path / "other")
    shutil.copy(path, folder / "vae" / "config.json")
    with pytest.raises(ValueError, match=message):
        StableDiffusion.from_pretrained(folder)


def test_attention_as_others_store_it(pipe, saved, tmp_path):
    """As matrices, and under diffusers' names."""
    tensors = first_code_names(saved)
    attention = [key for key in tensors if ".mid.attn_1." in key]
    assert len(attention) == 20
    matrices = tensors | {key: tensors[key].reshape(tensors[key].shape[:2]) for key in attention if "weight" in key}
    new = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0", "norm": "group_norm"}
    renamed = dict(tensors)
    for key in attention:
        block, layer, leaf = key.rsplit(".", 2)
        renamed[f"{block}.{new[layer]}.{leaf}"] = renamed.pop(key)
    for name, changed in {"matrices": matrices, "renamed": renamed}.items():
        save_file(changed, tmp_path / f"{name}.safetensors")
        assert_vae(TINY(tmp_path / f"{name}.safetensors", jnp.float32).vae, pipe.vae)


def test_what_says_nothing_of_the_model_is_passed_over(pipe, saved, folder, tmp_path):
    """Single numbers, and the text projection."""
    extra = {"step": np.array(3, np.float32), "cond_stage_model.transformer.text_projection.weight": np.zeros((2, 2))}
    save_file(first_code_names(saved) | extra, tmp_path / "model.safetensors")
    assert_vae(TINY(tmp_path / "model.safetensors", jnp.float32).text_encoder, pipe.text_encoder)
    path = folder / "text_encoder" / NETWORKS["text_encoder"]
    save_file(load_file(path) | {"text_projection.weight": np.zeros((24, 24))}, path)
    assert_vae(StableDiffusion.from_pretrained(folder).text_encoder, pipe.text_encoder)


def test_clip_skip(pipe, folder):
    """Fewer layers in the config than in the file: the last are left out, and the norm stays, as in transformers."""
    path = folder / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 1}))
    skipped = StableDiffusion.from_pretrained(folder)
    theirs = transformers.CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    tokens = tokenize(pipe.tokenizer, ["a red dog"])
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens.astype(np.int64)))[0].numpy()
    np.testing.assert_allclose(skipped.encode_text("a red dog"), expected, atol=3e-5)
    assert np.abs(expected - np.asarray(pipe.encode_text("a red dog"))).max() > 0.1


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    "values",
    [
        {"only_cross_attention": [False, False], "transformer_layers_per_block": [1, 1]},
        {"cross_attention_dim": [24, 24], "layers_per_block": [1, 1], "attention_head_dim": [4, 4]},
        {"norm_num_groups": 8.0, "class_embed_type": None, "num_attention_heads": None, "made_up": {"a": [None]}},
    ],
)
def test_config_values_of_another_shape_and_the_same_meaning(pipe, folder, values):
    change(folder / "unet" / "config.json", **values)
    assert_vae(StableDiffusion.from_pretrained(folder).unet, pipe.unet)


@pytest.mark.parametrize(
    "part, values, message",
    [
        ("unet", {"block_out_channels": None}, "block_out_channels is None; allowed: a list, each a whole number"),
        ("unet", {"block_out_channels": [16]}, r"down_block_types is \[.*\]; allowed: 1 of CrossAttnDownBlock2D, "),
        (
            "unet",
            {"block_out_channels": [16, 33]},
            "block_out_channels has 33; allowed: multiples of norm_num_gro",
        ),
        ("unet", {"down_block_types": ["AttnDownBlock2D", "DownBlock2D"]}, "down_block_types is .*; allowed: 2 of "),
        ("unet", {"cross_attention_dim": {"a": 1}}, "cross_attention_dim is {'a': 1}; allowed: a whole number"),
        ("unet", {"attention_head_dim": [4, 4, 2]}, r"attention_head_dim is \[4, 4, 2\]; allowed: one for all or 2"),
        ("unet", {"attention_head_dim": 0}, "block_out_channels has 16; allowed: multiples of"),
        ("unet", {"sample_size": "64"}, "sample_size is '64'; allowed: a whole number"),
        ("unet", {"layers_per_block": [1, 2]}, r"layers_per_block is \[1, 2\]; allowed: a whole number"),
        ("vae", {"scaling_factor": None}, "scaling_factor is None; allowed: a number"),
        ("vae", {"norm_num_groups": 0}, "norm_num_groups must be 1 or more"),
        ("vae", {"block_out_channels": []}, r"block_out_channels is \[\]; allowed: a list, each a whole number"),
        ("text_encoder", {"num_attention_heads": 5}, "num_attention_heads is 5; allowed: divisors of hidden_size"),
        ("text_encoder", {"hidden_act": None}, "hidden_act is None; allowed: a text"),
        ("text_encoder", {"hidden_size": True}, "hidden_size is True; allowed: a whole number"),
        (
            "text_encoder",
            {"hidden_size": 48},
            "text encoder's hidden_size is 48, but the U-Net's cross_attention",
        ),
        ("scheduler", {"beta_start": "0.1"}, "beta_start is '0.1'; allowed: a number"),
        ("scheduler", {"beta_start": 2.0}, "beta_start is 2.0 and beta_end 0.012; allowed: rising in 0 to 1"),
        ("scheduler", {"num_train_timesteps": 0}, "num_train_timesteps is 0; allowed: 1 to"),
        ("scheduler", {"use_karras_sigmas": "yes"}, "use_karras_sigmas is 'yes'; allowed: true or false"),
    ],
)
def test_config_values_that_cannot_be(folder, part, values, message):
    change(folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json"), **values)
    with pytest.raises(ValueError, match=message) as error:
        StableDiffusion.from_pretrained(folder)
    assert "\n" not in str(error.value)


def vocabulary(folder):
    """A tokenizer as vocab.json and merges.txt."""
    folder.mkdir()
    model = json.loads((models.TOKENIZER / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    return folder


@pytest.mark.parametrize("files", ["vocabulary", "tokenizer.json", "no length", "huge length"])
def test_tokenizers_with_fewer_files(pipe, tmp_path, files):
    """Texts are as long as the text encoder reads."""
    folder = tmp_path / "tokenizer"
    if files == "vocabulary":
        vocabulary(folder)
    else:
        shutil.copytree(models.TOKENIZER, folder)
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config.pop("model_max_length")
        if files == "huge length":
            config["model_max_length"] = int(1e30)
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        if files == "tokenizer.json":
            (folder / "tokenizer_config.json").unlink()
    texts = ["a red dog on the left", "", "word " * 100]
    loaded = load_tokenizer(folder, models.TEXT)
    with pytest.warns(UserWarning, match="more than 77 tokens"):
        np.testing.assert_array_equal(tokenize(loaded, texts), tokenize(pipe.tokenizer, texts))


def test_a_tokenizer_that_does_not_fit_the_text_encoder(folder, tmp_path):
    added = vocabulary(tmp_path / "added")
    (added / "added_tokens.json").write_text(json.dumps({"<concept>": len(models.TOKENS)}))
    message = "token ids up to 650, but the text encoder has embeddings for ids up to 649 only: they are not of one"
    with pytest.raises(ValueError, match=f"added: the tokenizer has {message}"):
        StableDiffusion.from_pretrained(folder, tokenizer=added).encode_text("a dog")
    with pytest.raises(ValueError, match="token ids go from 0 to 700; allowed: 0 to 649"):
        models.clip().embed_tokens(np.array([[0, 700] + [0] * 75]))


def test_a_clip_whose_tokenizer_ends_texts_otherwise(tmp_path):
    models.clip().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 7
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="eos_token_id is 7, but the tokenizer ends a text with 649: they are"):
        CLIP.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", [b"{}", b"[1, 2", b"\xff\xfe", b'{"model": {"type": "BPE", "vocab": {}}}'])
def test_damaged_tokenizers(folder, content):
    (folder / "tokenizer" / "tokenizer.json").write_bytes(content)
    with pytest.raises(ValueError, match="tokenizer: the tokenizer cannot be read: ") as error:
        StableDiffusion.from_pretrained(folder).encode_text("a dog")
    assert "\n" not in str(error.value)


def test_tokenizers_of_other_models(tmp_path):
    """Their token ids are small enough and mean other words."""
    words = {token: index for index, token in enumerate([*ByteLevel.alphabet(), "<|startoftext|>", "<|endoftext|>"])}
    for name, model in {
        "gpt": tokenizers.models.BPE(vocab=words, merges=[]),
        "bert": tokenizers.models.WordPiece(vocab={"[UNK]": 0, "a": 1, "dog": 2}, unk_token="[UNK]"),
    }.items():
        (tmp_path / name).mkdir()
        tokenizers.Tokenizer(model).save(str(tmp_path / name / "tokenizer.json"))
        with pytest.raises(ValueError, match=f"{name}: the tokenizer is not CLIP's, whose tokens at the end of a word"):
            load_tokenizer(tmp_path / name, models.TEXT)


def test_clip_with_the_config_of_a_processor_alone(tmp_path):
    """What transformers 5 writes."""
    clip = models.clip()
    clip.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "preprocessor_config.json").read_text()) | {"image_mean": [0.1, 0.2, 0.3]}
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match="preprocessor_config.json: no such file"):
        CLIP.from_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": values}))
    assert CLIP.from_pretrained(tmp_path).preprocessing.image_mean == (0.1, 0.2, 0.3)
    (tmp_path / "processor_config.json").write_text("{}")
    with pytest.raises(ValueError, match="processor_config.json: image_processor is None; allowed: an object"):
        CLIP.from_pretrained(tmp_path)


def test_clip_configs_with_defaults_and_older_names(tmp_path):
    clip = models.clip()
    clip.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["text_config_dict"] = config.pop("text_config")
    config["vision_config"]["layer_norm_eps"] = None
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="config.json: layer_norm_eps is None; allowed: a number"):
        CLIP.from_pretrained(tmp_path)
    del config["vision_config"]["layer_norm_eps"]
    path.write_text(json.dumps(config))
    np.testing.assert_array_equal(CLIP.from_pretrained(tmp_path).embed_text(["a dog"]), clip.embed_text(["a dog"]))
    for key in ("text_config", "vision_config"):
        path.write_text(json.dumps(config | {key: [1]}))
        with pytest.raises(ValueError, match=rf"config.json: {key} is \[1\]; allowed: an object"):
            CLIP.from_pretrained(tmp_path)


def test_a_single_file_gives_images_offline(pipe, saved, tmp_path, monkeypatch):
    """With texts by a tokenizer beside it; without any, the empty text is known all the same."""
    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    monkeypatch.setattr(pipeline, "load_single_file", TINY)
    path = tmp_path / "model.safetensors"
    save_file(first_code_names(saved), path)
    alone = StableDiffusion.from_pretrained(path)
    np.testing.assert_allclose(alone.encode_text(""), encoded_empty(pipe), atol=1e-5)
    assert alone(np.zeros((1, 77, 24)), steps=2).shape == (1, 32, 32, 3)
    for refused in (lambda: alone.encode_text("a dog"), lambda: require_tokenizer(path)):
        with pytest.raises(FileNotFoundError, match=r"tokenizer= \(--tokenizer\)") as error:
            refused()
        assert "\n" not in str(error.value)
    shutil.copytree(models.TOKENIZER, tmp_path / "tokenizer")
    require_tokenizer(path)
    beside = StableDiffusion.from_pretrained(path)
    np.testing.assert_array_equal(beside.encode_text("a dog"), pipe.encode_text("a dog"))


def offline(*_, **__):
    raise refusal(errors.LocalEntryNotFoundError)


def encoded_empty(pipe):
    """CLIP's empty text: its start, then its end to fill up."""
    return pipe.text_encoder(jnp.array([[648] + [649] * 76])).hidden_states


def test_the_sampler_of_a_single_file_is_the_folders(saved, tmp_path):
    """PNDM, and LMS spaced as LMS is, also after saving."""
    path = tmp_path / "model.safetensors"
    save_file(first_code_names(saved), path)
    parts = TINY(path, jnp.float32, tokenizer=models.TOKENIZER)
    assert parts.schedule.sampler == "pndm"
    StableDiffusion(*parts).save_pretrained(tmp_path / "again")
    again = StableDiffusion.from_pretrained(tmp_path / "again")
    assert again.schedule == parts.schedule
    assert "timestep_spacing" not in json.loads((tmp_path / "again/scheduler/scheduler_config.json").read_text())
    assert make_sampler("lms", again.schedule, 10).columns.timestep[0] == 999


def test_weights_that_are_not_finite(folder):
    for part in ("unet", "vae", "text_encoder"):
        path = folder / part / NETWORKS[part]
        whole = load_file(path)
        last = {"unet": "conv_out.bias", "vae": "decoder.conv_out.bias", "text_encoder": "final_layer_norm.bias"}[part]
        key = next(key for key in whole if key.endswith(last))
        save_file(whole | {key: np.full_like(whole[key], np.nan)}, path)
        name = {"unet": "the U-Net", "vae": "the VAE", "text_encoder": "the conditioning"}[part]
        with pytest.raises(ValueError, match=f"^{name} makes values that are not finite .*: its weights or its input"):
            broken = StableDiffusion.from_pretrained(folder)
            broken(broken.encode_text("a dog"), steps=2)
        save_file(whole, path)


def test_16_bits_that_overflow(folder):
    path = folder / "unet" / NETWORKS["unet"]
    whole = load_file(path)
    save_file(whole | {"conv_out.bias": np.full_like(whole["conv_out.bias"], 1e5)}, path)
    pipe = StableDiffusion.from_pretrained(folder, dtype="float16")
    cond = np.zeros((1, 77, 24))
    with jax.default_matmul_precision("default"):
        with pytest.raises(ValueError, match="^the U-Net makes .*: it computes in float16, which may overflow: try"):
            pipe(cond, cond, steps=2)


def test_a_revision_or_variant_of_what_has_none_is_refused(saved, folder, tmp_path):
    with pytest.raises(ValueError, match="is a folder here, which has no revision v2; leave the revision out"):
        StableDiffusion.from_pretrained(folder, revision="v2")
    with pytest.raises(ValueError, match="has no revision v2"):
        CLIP.from_pretrained(folder, revision="v2")
    (tmp_path / "a.safetensors").touch()
    for given in ({"revision": "v2"}, {"variant": "fp16"}):
        (name,) = given
        with pytest.raises(ValueError, match=rf"a\.safetensors is one file, which has no {name} .*; leave the {name}"):
            StableDiffusion.from_pretrained(tmp_path / "a.safetensors", **given)
    with pytest.raises(ValueError, match="is one file, which has no revision"):
        read_unet_config(tmp_path / "a.safetensors", "v2")


def test_a_mistyped_path_is_not_looked_up_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="^runs/gemini: no such folder$"):
        StableDiffusion.from_pretrained("runs/gemini")
    (tmp_path / "runs" / "gemini").mkdir(parents=True)
    for name, message in (
        ("runs/gemni", "runs/gemni: no such folder; did you mean runs/gemini\\?"),
        ("runs/zzz", "runs/zzz: no such folder in runs"),
        ("./runs/gemni", "runs/gemni: no such folder"),
        ("gemni", "gemni: no such file or folder, and no Hugging Face repository can be named so"),
    ):
        for model in (StableDiffusion, CLIP):
            with pytest.raises((FileNotFoundError, ValueError), match=message):
                model.from_pretrained(name)


def test_fp16_alone_is_downloaded_where_there_is_nothing_else(pipe, hub):
    for part, name in NETWORKS.items():
        (hub.remote / part / name).rename(hub.remote / part / name.replace(".", ".fp16."))
    with pytest.warns(UserWarning, match="of the variant fp16 alone"):
        assert_same(StableDiffusion.from_pretrained("owner/model"), pipe)
