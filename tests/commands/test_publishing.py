"""What is uploaded to the hub: it loads again, says what it is, and a dry run writes the same without a network."""

import shutil
import sys

import huggingface_hub
import numpy as np
import pytest
from flax import nnx
from huggingface_hub import ModelCard
from safetensors import safe_open
from safetensors.numpy import save_file

import encoders
from jaxsd.commands.publish import run_publish
from jaxsd.commands.publishing import publish
from jaxsd.diffusion.lora import read_lora
from tests.helpers import models

LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


class FakeApi:
    """What a hub was asked for; the uploaded folder is kept as it is at that moment."""

    asked: list
    kept = None

    def create_repo(self, *arguments, **options):
        self.asked.append(("create", *arguments, options))

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        self.asked.append(("upload", repo_id))
        shutil.copytree(folder_path, self.kept)
        return f"https://hub/{repo_id}"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setattr(FakeApi, "asked", [], raising=False)
    monkeypatch.setattr(FakeApi, "kept", tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    return FakeApi


def write_encoder(folder):
    encoder = encoders.create("chatgpt", width=24, depth=1, heads=2, mlp=8, rngs=nnx.Rngs(0))
    encoders.save(encoder, folder, audio_pooling="last")
    return encoder


def write_lora(path, **metadata):
    rng = np.random.default_rng(0)
    tensors = {
        f"{LAYER}.lora_down.weight": rng.normal(size=(4, 16)).astype(np.float16),
        f"{LAYER}.lora_up.weight": rng.normal(size=(16, 4)).astype(np.float16),
        f"{LAYER}.alpha": np.float32([2]),
    }
    save_file(tensors, path, metadata=metadata or None)


def metadata_of(path):
    with safe_open(path, framework="numpy") as file:
        return file.metadata()


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_encoder_loads_from_what_is_uploaded(hub, tmp_path):
    encoder = write_encoder(tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").touch()  # what training leaves stays here
    assert publish(tmp_path / "run", "me/ears", license="mit") == "https://hub/me/ears"
    assert hub.asked == [("create", "me/ears", {"private": None, "exist_ok": True}), ("upload", "me/ears")]
    assert contents(hub.kept).keys() == {"encoder.json", "model.safetensors", "README.md"}
    loaded = encoders.load(hub.kept)
    for ours, theirs in zip(nnx.to_flat_state(nnx.state(encoder)), nnx.to_flat_state(nnx.state(loaded)), strict=True):
        np.testing.assert_array_equal(ours[1][...], theirs[1][...])
    assert encoders.read_config(hub.kept)["audio_pooling"] == "last"
    assert metadata_of(hub.kept / "model.safetensors") == {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "jaxsd-encoder/chatgpt",
        "modelspec.implementation": "jaxsd",
        "modelspec.title": "ears",
    }
    card = ModelCard.load(hub.kept / "README.md")
    assert (card.data.library_name, card.data.license, card.data.base_model) == ("jaxsd", "mit", None)
    assert 'encoders.load("me/ears")' in card.text and "width 24" in " ".join(card.text.split())


def test_saved_encoders_say_what_they_are(tmp_path):
    write_encoder(tmp_path)
    first = (tmp_path / "model.safetensors").read_bytes()
    write_encoder(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == first
    assert metadata_of(tmp_path / "model.safetensors")["modelspec.architecture"] == "jaxsd-encoder/chatgpt"


def test_a_lora_is_the_same_after_the_upload(hub, tmp_path):
    write_lora(tmp_path / "style.safetensors", ss_network_dim="4", **{"modelspec.title": "Of its author"})
    publish(tmp_path / "style.safetensors", "me/style", base_model="owner/model", private=True)
    assert hub.asked[0] == ("create", "me/style", {"private": True, "exist_ok": True})
    pipe = models.stable_diffusion()
    before, after = (
        read_lora(source, pipe.unet, pipe.text_encoder).arrays()
        for source in (tmp_path / "style.safetensors", hub.kept)
    )
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
    metadata = metadata_of(hub.kept / "pytorch_lora_weights.safetensors")
    assert (metadata["ss_network_dim"], metadata["modelspec.title"]) == ("4", "Of its author")
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    card = ModelCard.load(hub.kept / "README.md")
    assert card.data.base_model == "owner/model" and "lora" in card.data.tags and "| rank | 4 |" in card.text


def test_the_scale_of_peft_goes_along(hub, tmp_path):
    save_file(
        {f"base_model.model.down_blocks.0.attentions.0.proj_in.lora_{part}.weight": np.ones((2, 2)) for part in "AB"},
        tmp_path / "adapter_model.safetensors",
    )
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 8}')
    publish(tmp_path, "me/style")
    assert contents(hub.kept).keys() == {"adapter_model.safetensors", "adapter_config.json", "README.md"}


def test_an_encoder_of_ones_own_goes_with_its_code(hub, tmp_path):
    code = tmp_path / "mine.py"
    code.write_text(
        "import jax.numpy as jnp\nfrom flax import nnx\n\n\nclass Mine(nnx.Module):\n"
        "    def __init__(self, *, rngs):\n        self.bias = nnx.Param(jnp.zeros((77, 24)))\n\n"
        "    def __call__(self, clips):\n        return jnp.zeros((len(clips), 1, 1)) + self.bias[None]\n"
    )
    encoders.save(encoders.create(f"{code}:Mine", rngs=nnx.Rngs(0)), tmp_path / "run")
    publish(tmp_path / "run", "me/mine")
    assert contents(hub.kept)["mine.py"] == code.read_bytes()
    assert str(tmp_path) not in (hub.kept / "encoder.json").read_text()
    code.unlink()
    assert type(encoders.load(hub.kept, trust_code=True)).__name__ == "Mine"
    with pytest.raises(ValueError, match="needs the code mine.py, and it is not there as it was"):
        publish(tmp_path / "run", "me/mine")


def test_a_dry_run_writes_what_would_be_uploaded(hub, tmp_path, monkeypatch, capsys):
    write_encoder(tmp_path / "run")
    publish(tmp_path / "run", "me/ears")
    hub.asked.clear()
    folder = tmp_path / "dry"
    monkeypatch.setattr(sys, "argv", ["jaxsd publish", str(tmp_path / "run"), "me/ears", "--dry-run", str(folder)])
    run_publish()
    assert capsys.readouterr().out.strip() == str(folder)
    assert contents(folder) == contents(hub.kept) and not hub.asked
    (folder / "README.md").write_text("edited")
    publish(folder, "me/ears", dry_run=tmp_path / "again")
    assert contents(tmp_path / "again") == contents(folder)
    with pytest.raises(ValueError, match="dry is there already and not an empty folder; choose another"):
        run_publish()


def test_what_cannot_be_published_gets_one_sentence(hub, tmp_path, monkeypatch):
    write_encoder(tmp_path / "run")
    with pytest.raises(ValueError, match="the repository is 'ears'; allowed: OWNER/NAME"):
        publish(tmp_path / "run", "ears")
    with pytest.raises(ValueError, match="the repository is 'a//b'; allowed"):
        publish(tmp_path / "run", "a//b")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        publish(tmp_path / "gone", "me/ears")
    (tmp_path / "run" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        publish(tmp_path / "run", "me/ears", dry_run=tmp_path / "dry")
    assert not hub.asked and not (tmp_path / "dry").exists()
    write_encoder(tmp_path / "run")

    def refuse(self, *arguments, **options):
        raise RuntimeError("401 Unauthorized\nmore")

    monkeypatch.setattr(FakeApi, "create_repo", refuse)
    with pytest.raises(OSError, match="^me/ears cannot be uploaded: 401 Unauthorized$"):
        publish(tmp_path / "run", "me/ears")
