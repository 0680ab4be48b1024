"""Training of a LoRA: the gradients of PEFT, files that diffusers reads, and runs that go on."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from flax import nnx
from peft import LoraConfig, inject_adapter_in_model
from safetensors import safe_open
from safetensors.numpy import load_file

import encoders
from jaxsd.config import DataConfig, LoRAConfig
from jaxsd.data.columns import open_columns, write_columns
from jaxsd.diffusion.denoising import add_noise
from jaxsd.diffusion.lora import LoRA, apply_loras
from jaxsd.diffusion.lora_saving import write_lora
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.diffusion.samplers import NoiseSchedule
from jaxsd.training import train_lora as lora_training
from jaxsd.training.lora_layers import init_lora, lora_factors, with_low_rank
from jaxsd.training.train_lora import train_lora

pytestmark = pytest.mark.slow

FILE = "pytorch_lora_weights.safetensors"


def config_of(data, **changes):
    values = {"steps": 2, "batch_size": 4, "save_every": 1, "eval_every": 2, "sample_images": 0, "rank": 2}
    return LoRAConfig(data=DataConfig(folder=str(data)), **values | changes)


def randomised(config, unet):
    """Factors of a size that changes the images."""
    rng = np.random.default_rng(1)
    params = init_lora(config, unet)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.2, x.shape), jnp.float32), params)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "lora"
    with jax.default_matmul_precision("highest"):
        return folder, train_lora(config_of(data), folder)


def test_a_run_leaves_a_file_that_both_libraries_draw_with(run, data):
    folder, lora = run
    with safe_open(folder / FILE, "numpy") as file:
        assert file.metadata()["modelspec.architecture"] == "stable-diffusion-v1/lora"
        assert file.metadata()["modelspec.title"] == "lora"
    pipe = StableDiffusion.from_pretrained(data / "diffusion")
    pipe.load_lora(folder)
    (loaded,) = pipe.loras.values()
    assert loaded.arrays().keys() == lora.arrays().keys()
    for name, array in lora.arrays().items():
        np.testing.assert_array_equal(loaded.arrays()[name], array)
    assert all(np.abs(factors.up).max() > 0 for factors in lora.factors["unet"].values())
    theirs = StableDiffusionPipeline.from_pretrained(data / "diffusion", dtype=torch.float32)
    theirs.load_lora_weights(folder)


@pytest.mark.parametrize("names", ["diffusers", "kohya"])
def test_every_layer_in_a_file_of_either_names_draws_the_images_of_diffusers(data, tmp_path, names):
    pipe = StableDiffusion.from_pretrained(data / "diffusion")
    config = config_of(data, layers="all")
    write_lora(LoRA({"unet": lora_factors(randomised(config, pipe.unet))}), tmp_path / FILE, names=names)
    prefix = {"diffusers": "unet.", "kohya": "lora_unet_"}[names]
    assert all(key.startswith(prefix) for key in load_file(tmp_path / FILE))
    theirs = StableDiffusionPipeline.from_pretrained(data / "diffusion", dtype=torch.float32)
    theirs.load_lora_weights(tmp_path)
    theirs.set_progress_bar_config(disable=True)
    latents = np.random.default_rng(5).standard_normal((1, 8, 8, 4), np.float32)
    plain = pipe(["a dog"], steps=2, guidance=2.0, latents=latents)
    pipe.load_lora(tmp_path)
    images = pipe(["a dog"], steps=2, guidance=2.0, latents=latents)
    options = {"num_inference_steps": 2, "guidance_scale": 2.0, "height": 32, "width": 32, "output_type": "np"}
    with torch.no_grad():
        expected = theirs("a dog", latents=torch.tensor(latents).permute(0, 3, 1, 2), **options).images
    assert np.abs(images - plain).max() > 0.02
    np.testing.assert_allclose(images, expected, atol=1e-3)


def test_losses_and_gradients_are_those_of_peft(data, rng):
    """Of the attention projections, and in a U-Net that is trained beside its layers and drawn with merged ones."""
    pipe = StableDiffusion.from_pretrained(data / "diffusion")
    params = randomised(config_of(data, layers="attention"), pipe.unet)
    latents, noise = rng.standard_normal((2, 3, 8, 8, 4), np.float32)
    context, timesteps = jnp.asarray(rng.standard_normal((3, 77, 24), np.float32)), jnp.array([10, 500, 990])
    noisy, _ = add_noise(latents, noise, timesteps, NoiseSchedule())

    @jax.jit
    def loss(params):
        return jnp.mean((with_low_rank(pipe.unet, params)(noisy, timesteps, context) - noise) ** 2)

    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    merged = apply_loras(pipe.unet, "unet", [LoRA({"unet": lora_factors(params)})])
    predict = nnx.jit(lambda unet, *inputs: unet(*inputs))
    np.testing.assert_allclose(jnp.mean((predict(merged, noisy, timesteps, context) - noise) ** 2), value, rtol=1e-5)

    unet = StableDiffusionPipeline.from_pretrained(data / "diffusion", dtype=torch.float32).unet.requires_grad_(False)
    inject_adapter_in_model(
        LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False),
        unet,
    )
    adapters = {}
    for name, module in unet.named_modules():
        if hasattr(module, "lora_A"):
            kernel = name.replace("to_out.0", "to_out") + ".kernel"
            adapters[kernel] = module.lora_A.default.weight, module.lora_B.default.weight
            for weight, part in zip(adapters[kernel], ("down", "up"), strict=True):
                weight.data = torch.tensor(np.asarray(params[kernel][part]["kernel"]).T)
    assert adapters.keys() == params.keys()
    to_torch = lambda x: torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)  # noqa: E731
    predicted = unet(to_torch(noisy), torch.tensor(np.array(timesteps)), torch.tensor(np.array(context))).sample
    expected = torch.mean((predicted - to_torch(noise)) ** 2)
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    for kernel, weights in adapters.items():
        for weight, part in zip(weights, ("down", "up"), strict=True):
            largest = float(weight.grad.abs().max())
            np.testing.assert_allclose(gradients[kernel][part]["kernel"], weight.grad.T, atol=1e-4 * largest)


@pytest.mark.long
def test_a_run_that_was_stopped_ends_with_the_same_bits(run, data, tmp_path):
    folder, _ = run
    config = config_of(data, sample_images=2)
    train_lora(replace(config, steps=1), tmp_path / "lora")
    train_lora(config, tmp_path / "lora")
    assert (tmp_path / "lora" / "samples" / "000002.png").is_file()
    assert (tmp_path / "lora" / FILE).read_bytes() == (folder / FILE).read_bytes()
    with pytest.raises(ValueError, match="holds a run of another config .rank was 2, is 3"):
        train_lora(replace(config, rank=3), folder)


@pytest.mark.long
def test_a_run_on_sounds_without_a_validation_split(data, tmp_path):
    encoders.save(encoders.create("human", width=24, stride=8, rngs=nnx.Rngs(0)), tmp_path / "encoder")
    columns = open_columns(data / "train")
    kept = {name: columns[name] for name in ("audio", "latents")}
    named = {name: str(data / name) for name in ("clip", "diffusion")}
    write_columns(tmp_path / "data" / "train", kept, named)
    config = config_of(tmp_path / "data", encoder=str(tmp_path / "encoder"), accumulate=2, steps=1)
    lora = train_lora(config, tmp_path / "run")
    assert all(np.abs(factors.up).max() > 0 for factors in lora.factors["unet"].values())
    with pytest.raises(ValueError, match="has no column tokens; python -m jaxsd.data prepare MANIFEST"):
        train_lora(replace(config, encoder=""), tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank is 0; it must be at least 1"),
        ({"layers": "attn"}, "unknown layers 'attn'; choose from attention, transformer, all"),
        ({"names": "peft"}, "unknown names 'peft'; choose from diffusers, kohya"),
        ({"steps": 0}, "epochs is 0 and steps is 0"),
        ({"accumulate": 3}, "accumulate is 3; it must divide the 4 examples"),
        ({"encoder": "gemini"}, "encoder gemini makes (77, 128) of a clip"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(data, tmp_path, changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        train_lora(config_of(data, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_command_and_what_it_says_next(data, tmp_path, run_jaxsd, monkeypatch):
    monkeypatch.setattr(lora_training, "train_lora", lambda *_, **__: None)
    status, out, err = run_jaxsd("train", "--config", "lora.py", f"--config.data.folder={data}", "--out", "runs/mine")
    assert (status, out) == (0, "runs/mine\n")
    assert err == f"next: jaxsd generate --text CAPTION --model {data / 'diffusion'} --lora runs/mine\n"
