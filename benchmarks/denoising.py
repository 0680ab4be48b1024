"""Times training through the frozen U-Net of Stable Diffusion 1.5 (random weights) beside PyTorch, in one run.

python -m benchmarks.denoising [--encoder gemini] [--batch 1] [--repeats 3]

A step of the recipe `denoise`: the encoder's rows condition the U-Net on noisy 64x64 latents, and the loss goes back
through the U-Net, whose activations are computed again (rematerialized; XLA undoes that on a CPU), to the encoder. In
bfloat16 and with batches of 128 on an accelerator, in float32 with batches of 1 on a CPU; without reading data.
"""

import argparse

import jax
import numpy as np
from flax import nnx

from benchmarks.diffusion import random
from benchmarks.parity import diffusers, torch
from benchmarks.timing import in_turns
from encoders.flops import count_flops
from encoders.layers import rematerialize
from jaxsd.config import load_config
from jaxsd.diffusion.samplers import NoiseSchedule
from jaxsd.diffusion.unet import UNet, UNetConfig
from jaxsd.pretrained.precision import choose_dtype
from jaxsd.runtime import cli
from jaxsd.runtime.sharding import batch_sharding, replicate
from jaxsd.training.frozen_models import FrozenModels
from jaxsd.training.initialization import make_encoder
from jaxsd.training.loop import init_state, make_step
from jaxsd.training.losses import make_gradient
from jaxsd.training.optimizers import make_optimizer
from jaxsd.training.throughput import peak_flops
from tests.references.encoders import Sizes, torch_encoder
from tests.references.manifests import make as published


def ours(name: str, size: int):
    """A function that makes a step, the step's FLOPs, and the bytes it needs beside its arguments."""
    config = load_config(f"{name}:denoise", [f"--config.batch_size={size}"])
    dtype = choose_dtype(None)
    encoder = make_encoder(config, dtype)
    unet = random(lambda: UNet(UNetConfig(), dtype=dtype, rngs=nnx.Rngs(0)), dtype)
    models = FrozenModels(unet=unet, schedule=NoiseSchedule())
    rematerialize(encoder)
    rematerialize(models)
    (graph, params), (models_graph, frozen) = nnx.split(encoder), nnx.split(models)
    optimizer = make_optimizer(config, config.warmup + 1)
    step = make_step(make_gradient(config, graph, models_graph), optimizer, 0)
    state = replicate(init_state({"encoder": nnx.as_pure(params)}, optimizer))
    audio, latents = examples(size)
    batch = {"audio": audio, "latents": latents.transpose(0, 2, 3, 1), "valid": np.ones(size, bool)}
    batch, frozen = jax.device_put(batch, batch_sharding()), replicate(nnx.as_pure(frozen))
    traced = step.trace(state, frozen, batch)
    flops, compiled = count_flops(traced.jaxpr), traced.lower().compile()

    def run():
        nonlocal state
        state, metrics = compiled(state, frozen, batch)
        jax.block_until_ready(metrics["loss"])

    return run, flops, compiled.memory_analysis().temp_size_in_bytes


def theirs(name: str, size: int):
    """The same step in PyTorch eager, with gradient checkpointing; on an accelerator under bfloat16 autocast."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    unet = diffusers.UNet2DConditionModel(**published.UNET).to(device, dtype).requires_grad_(False).train()
    unet.enable_gradient_checkpointing()
    sizes = reference_sizes(name)
    encoder = torch_encoder(name, sizes).eval().to(device)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-6)
    audio, latents = (torch.tensor(x, device=device) for x in examples(size))
    alphas = torch.tensor(NoiseSchedule().alphas_cumprod, dtype=torch.float32, device=device)

    def run():
        t = torch.randint(0, len(alphas), (size,), device=device)
        noise, alpha = torch.randn_like(latents), alphas[t].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        with torch.autocast(device, dtype, enabled=device == "cuda"):
            predicted = unet(noisy.to(dtype), t, encoder(audio).to(dtype)).sample
        loss = torch.nn.functional.mse_loss(predicted.float(), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return run


def reference_sizes(name: str) -> Sizes | None:
    sizes = load_config(name, []).encoder_config
    return Sizes(**sizes) if "depth" in sizes else None


def examples(size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    audio = rng.integers(-8000, 8000, (size, 16_000)).astype(np.int16)
    return audio, rng.standard_normal((size, 4, 64, 64), np.float32)


def main():
    cpu = jax.default_backend() == "cpu"
    parser = cli.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="gemini")
    parser.add_argument("--batch", type=int, default=1 if cpu else 128)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    run, flops, memory = ours(arguments.encoder, arguments.batch)
    taken = in_turns({"jaxsd": run, "PyTorch eager": theirs(arguments.encoder, arguments.batch)}, arguments.repeats)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, torch {torch.__version__}")
    print(
        f"{arguments.encoder}, batch {arguments.batch}; jaxsd needs {memory / 2**30:.1f} GiB beside parameters and data"
    )
    print("| | s a step | clips/s | MFU | PyTorch : this |")
    print("|---|---|---|---|---|")
    for name, seconds in taken.items():
        mfu = f"{flops / seconds / peak_flops():.1%}" if peak_flops() else "unknown"
        ratio = taken["PyTorch eager"] / seconds
        print(f"| {name} | {seconds:.2f} | {arguments.batch / seconds:.2f} | {mfu} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
