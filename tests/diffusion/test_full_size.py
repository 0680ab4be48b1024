"""Random weights at the published sizes, written by PyTorch diffusers and transformers: our loader, our networks.

python -m pytest -m full_size tests/diffusion/test_full_size.py -s

prints how far the outputs differ. One torch network at a time is in memory; 5 GB of disk are used and freed.
"""

import gc
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from flax import nnx
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel

from jaxsd.clip import pipeline as clip_pipeline
from jaxsd.clip.pipeline import CLIP, Preprocessing
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.diffusion.samplers import NoiseSchedule
from jaxsd.diffusion.saving import scheduler_json
from jaxsd.pretrained.model_config import to_json
from jaxsd.runtime.files import write_json
from tests.references.manifests import make as published

pytestmark = pytest.mark.full_size

TOLERANCE = 1e-3  # largest difference, of the outputs' root mean square


def save(model: torch.nn.Module, folder):
    """Write `model` with norms and biases that are not one and zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model.eval()


def compare(name, ours, seconds, theirs):
    worst = np.abs(np.asarray(ours) - theirs).max() / np.sqrt(np.mean(theirs**2))
    print(f"| {name} | {'x'.join(map(str, theirs.shape))} | {worst:.1e} | {seconds:.0f} |", flush=True)
    assert worst <= TOLERANCE


def run(method, *arguments):
    """The jitted method's output and the seconds of compiling and running it."""
    start = time.monotonic()
    model = method.__self__
    out = nnx.jit(lambda model, *arguments: getattr(model, method.__name__)(*arguments))(model, *arguments)
    return jax.block_until_ready(out), time.monotonic() - start


def from_torch(x):
    return x.permute(0, 2, 3, 1).numpy()


def to_torch(x):
    return torch.tensor(x).permute(0, 3, 1, 2)


@torch.no_grad()
def test_stable_diffusion_15(tmp_path, rng):
    torch.manual_seed(0)
    latents = rng.standard_normal((1, 64, 64, 4), np.float32)
    picture = rng.uniform(-1, 1, (1, 512, 512, 3)).astype(np.float32)
    context = rng.standard_normal((1, 77, 768), np.float32)
    tokens = rng.integers(0, 49406, (2, 77), np.int32)

    unet = save(UNet2DConditionModel(**published.UNET), tmp_path / "unet")
    noise = from_torch(unet(to_torch(latents), torch.tensor([500.0]), torch.tensor(context)).sample)
    del unet
    vae = save(AutoencoderKL(**published.VAE), tmp_path / "vae")
    mean = from_torch(vae.encode(to_torch(picture)).latent_dist.mean)
    decoded = from_torch(vae.decode(to_torch(latents)).sample)
    del vae
    text = save(CLIPTextModel(CLIPTextConfig(**published.TEXT)), tmp_path / "text_encoder")
    hidden = text(torch.tensor(tokens.astype(np.int64)))[0].numpy()
    del text
    gc.collect()

    (tmp_path / "scheduler").mkdir()
    write_json(tmp_path / "scheduler" / "scheduler_config.json", scheduler_json(NoiseSchedule(sampler="pndm")))
    pipe = StableDiffusion.from_pretrained(tmp_path, dtype="float32")
    print("\n| network | output | largest difference : root mean square | s, compiled and run |\n|---|---|---|---|")
    compare("text encoder", *timed_hidden(pipe, tokens), hidden)
    compare("U-Net", *run(pipe.unet.__call__, latents, np.array([500], np.float32), context), noise)
    gaussian, seconds = run(pipe.vae.encode, picture)
    compare("VAE, encode", gaussian.mean, seconds, mean)
    compare("VAE, decode", *run(pipe.vae.decode, latents), decoded)


def timed_hidden(pipe, tokens):
    out, seconds = run(pipe.text_encoder.__call__, tokens)
    return out.hidden_states, seconds


@torch.no_grad()
def test_clip_vit_l_14(tmp_path, rng, monkeypatch):
    torch.manual_seed(0)
    pictures = rng.integers(0, 256, (2, 224, 224, 3), np.uint8)
    tokens = rng.integers(0, 49406, (2, 77), np.int32)
    tokens[:, 20:] = 49407
    preprocessing = Preprocessing()
    pixels = (pictures / 255 - preprocessing.image_mean) / preprocessing.image_std

    clip = CLIPModel(CLIPConfig(text_config=published.TEXT, vision_config=published.VISION, projection_dim=768))
    clip = save(clip, tmp_path)
    write_json(tmp_path / "preprocessor_config.json", to_json(preprocessing))
    out = clip(input_ids=torch.tensor(tokens.astype(np.int64)), pixel_values=to_torch(pixels.astype(np.float32)))
    text, image = out.text_embeds.numpy(), out.image_embeds.numpy()
    del clip, out
    gc.collect()

    tokenizer = SimpleNamespace(eos_token_id=49407)  # no file of the published vocabulary is at hand
    monkeypatch.setattr(clip_pipeline, "load_tokenizer", lambda folder, config: tokenizer)
    ours = CLIP.from_pretrained(tmp_path, dtype="float32")
    print("\n| network | output | largest difference : root mean square | s, compiled and run |\n|---|---|---|---|")
    compare("CLIP, text", *run(ours.model.embed_text, tokens), text)
    start = time.monotonic()
    embedded = np.asarray(ours.embed_arrays(pictures))
    compare("CLIP, image", embedded, time.monotonic() - start, image)
