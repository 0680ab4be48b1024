"""Times Stable Diffusion 1.5 (random weights) beside PyTorch diffusers on the same machine in one run.

python -m benchmarks.diffusion [--repeats 2] [--layers]

On a CPU: a U-Net step at 64x64 latents of one picture with guidance, in turns with PyTorch eager on as many threads,
and without what this project does for CPUs; with --layers, the most expensive layers one by one instead. On a GPU:
512x512 pictures of 50 steps in bfloat16, beside float16 pipelines of PyTorch, eager and compiled, each in a process of
its own that starts with empty compilation caches.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.parity import diffusers, torch
from benchmarks.timing import in_turns
from encoders import attention
from encoders.flops import count_flops
from jaxsd.clip.towers import TextModel
from jaxsd.diffusion import kernels
from jaxsd.diffusion.loading import SD15_TEXT
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.diffusion.samplers import NoiseSchedule
from jaxsd.diffusion.unet import UNet, UNetConfig
from jaxsd.diffusion.vae import VAE, VAEConfig
from jaxsd.runtime import cli
from tests.references.manifests import make as published

STEPS, GUIDANCE, BATCHES = 50, 7.5, (1, 4, 16)
CONTENDERS = ("jaxsd", "PyTorch eager", "PyTorch compiled")
XLA = sys.maxsize  # as BLOCK: attention at once


def random(make, dtype=jnp.float32):
    """What `make` makes, its parameters one random row over and over: times do not depend on the values."""
    values = np.random.default_rng(0).normal(0, 0.02, 1_000_003).astype(np.float32)
    graph, params = nnx.split(nnx.eval_shape(make))
    return nnx.merge(graph, jax.tree.map(lambda p: jnp.asarray(np.resize(values, p.shape), dtype), nnx.as_pure(params)))


def on_cpu(repeats: int):
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    x, context = rng.standard_normal((2, 64, 64, 4), np.float32), rng.standard_normal((2, 77, 768), np.float32)
    t = np.full(2, 500, np.float32)

    graph, params = nnx.split(random(lambda: UNet(UNetConfig(), rngs=nnx.Rngs(0))))
    keys_values = jax.jit(lambda params: nnx.merge(graph, params).keys_values(context))(params)

    def ours(block=attention.QUERY_BLOCK, small_map=kernels.SMALL_MAP):
        attention.QUERY_BLOCK, kernels.SMALL_MAP = block, small_map  # read when the step is traced
        step = jax.jit(lambda params, x, kv: nnx.merge(graph, params).denoise(x, t, kv))
        step = step.lower(params, x, keys_values).compile()
        return lambda: jax.block_until_ready(step(params, x, keys_values))

    unet = diffusers.UNet2DConditionModel(**published.UNET).eval()
    arguments = (torch.tensor(x).permute(0, 3, 1, 2).contiguous(), torch.tensor(t), torch.tensor(context))

    @torch.no_grad()
    def theirs():
        unet(*arguments)

    runs = {
        "PyTorch eager": theirs,
        "jaxsd": ours(),
        "jaxsd, attention at once": ours(block=XLA),
        "jaxsd, XLA's convolution at 8x8": ours(small_map=0),
    }
    taken = in_turns(runs, repeats)
    print(f"{threads} threads, jax {jax.__version__}, torch {torch.__version__}, float32, 64x64 latents, batch 2")
    print("| | s a step | PyTorch : this |")
    print("|---|---|---|")
    for name, seconds in taken.items():
        print(f"| {name} | {seconds:.2f} | {taken['PyTorch eager'] / seconds:.2f} |")


# Self-attention: positions, heads, features a head. Convolutions of 3x3: side of the map, channels in and out.
ATTENTIONS = ((4096, 8, 40), (1024, 8, 80), (256, 8, 160))
CONVOLUTIONS = ((64, 320, 320), (64, 640, 320), (32, 640, 640), (16, 1280, 1280), (8, 1280, 1280), (8, 2560, 1280))


def layers_on_cpu(repeats: int):
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rng = np.random.default_rng(0)
    print("| layer, batch 2 | jaxsd, ms | XLA's own, ms | PyTorch eager, ms |")
    print("|---|---|---|---|")

    def line(name, ours, plain, theirs, *arrays):
        ours, plain = jax.jit(ours), jax.jit(plain)
        runs = {
            "jaxsd": lambda: jax.block_until_ready(ours(*arrays)),
            "XLA": lambda: jax.block_until_ready(plain(*arrays)),
            "PyTorch": torch.no_grad()(theirs),
        }
        taken = in_turns(runs, repeats)
        print(f"| {name} | {' | '.join(f'{1e3 * seconds:.0f}' for seconds in taken.values())} |", flush=True)

    for positions, heads, features in ATTENTIONS:
        q = jnp.asarray(rng.standard_normal((2, positions, heads, features), np.float32))
        t = torch.tensor(np.asarray(q)).transpose(1, 2).contiguous()
        line(
            f"self-attention of {positions}, {heads} heads of {features}",
            attention.attention,
            jax.nn.dot_product_attention,
            partial(torch.nn.functional.scaled_dot_product_attention, t, t, t),
            *(q, q, q),
        )

    def same_size(convolution):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lambda x, kernel: convolution(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=numbers)

    for side, features_in, features_out in CONVOLUTIONS:
        x = jnp.asarray(rng.standard_normal((2, side, side, features_in), np.float32))
        kernel = jnp.asarray(rng.standard_normal((3, 3, features_in, features_out), np.float32))
        line(
            f"convolution of {side}x{side}, {features_in} to {features_out}",
            same_size(kernels.convolve),
            same_size(jax.lax.conv_general_dilated),
            partial(
                torch.nn.functional.conv2d,
                torch.tensor(np.asarray(x)).permute(0, 3, 1, 2).contiguous(),
                torch.tensor(np.asarray(kernel)).permute(3, 2, 0, 1).contiguous(),
                padding=1,
            ),
            *(x, kernel),
        )


def on_gpu(repeats: int, peak_tflops: float):
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, torch {torch.__version__}")
    print("| | batch | first s, nothing compiled | first s, compiled before | s | images/s | MFU | peak GiB |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for batch in BATCHES:
        for contender in CONTENDERS:
            options = ["--contender", contender, "--batch", batch, "--repeats", repeats, "--peak-tflops", peak_tflops]
            with tempfile.TemporaryDirectory() as caches:
                environment = os.environ | {
                    "JAX_COMPILATION_CACHE_DIR": f"{caches}/jax",
                    "TORCHINDUCTOR_CACHE_DIR": f"{caches}/torch",
                }
                command = [sys.executable, "-m", "benchmarks.diffusion", *map(str, options)]
                cold = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
                warm = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
            first, rest = (done.stdout.splitlines()[-1].split("|") for done in (cold, warm))
            print(f"| {contender} | {batch} | {first[0]} | {' | '.join(rest)} |", flush=True)


def contend(contender: str, batch: int, repeats: int, peak_tflops: float):
    """Print seconds of the first call and of the others, images a second, MFU and peak memory."""
    make = ours_on_gpu if contender == "jaxsd" else partial(theirs_on_gpu, compiled=contender.endswith("compiled"))
    run, peak = make(batch)
    start = time.perf_counter()
    run()
    first = time.perf_counter() - start
    seconds = in_turns({contender: run}, repeats)[contender]
    share = flops(batch) / seconds / (peak_tflops * 1e12)
    print(f"{first:.1f}|{seconds:.3f}|{batch / seconds:.2f}|{share:.1%}|{peak() / 2**30:.1f}")


def flops(batch: int) -> float:
    """Of the matrix products and convolutions of the U-Net in all steps with guidance, and of the decoder."""
    unet = nnx.eval_shape(lambda: UNet(UNetConfig(), rngs=nnx.Rngs(0)))
    vae = nnx.eval_shape(lambda: VAE(VAEConfig(), rngs=nnx.Rngs(0)))
    x, t, context = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 64, 64, 4), (2,), (2, 77, 768)))
    count = 0.0
    for model, method, arguments, times in ((unet, "__call__", (x, t, context), STEPS), (vae, "decode", (x,), 0.5)):
        graph, params = nnx.split(model)

        def apply(params, *arguments, graph=graph, method=method):
            return getattr(nnx.merge(graph, params), method)(*arguments)

        count += times * count_flops(jax.make_jaxpr(apply)(params, *arguments))
    return batch * count


def ours_on_gpu(batch: int):
    kind = {"dtype": jnp.bfloat16, "rngs": nnx.Rngs(0)}
    networks = [
        lambda: UNet(UNetConfig(), **kind),
        lambda: VAE(VAEConfig(), **kind),
        lambda: TextModel(SD15_TEXT, **kind),
    ]
    pipe = StableDiffusion(*(random(make, jnp.bfloat16) for make in networks), None, NoiseSchedule(sampler="pndm"))
    cond = jnp.ones((batch, 77, 768))
    return (
        lambda: pipe(cond, -cond, guidance=GUIDANCE, steps=STEPS).block_until_ready(),
        lambda: jax.devices()[0].memory_stats()["peak_bytes_in_use"],
    )


def theirs_on_gpu(batch: int, compiled: bool):
    pipe = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(**published.VAE),
        unet=diffusers.UNet2DConditionModel(**published.UNET),
        scheduler=diffusers.PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
        ),
        text_encoder=None,
        tokenizer=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to("cuda", torch.float16)
    pipe.set_progress_bar_config(disable=True)
    if compiled:
        pipe.unet = torch.compile(pipe.unet.to(memory_format=torch.channels_last), mode="max-autotune", fullgraph=True)
        pipe.vae.decode = torch.compile(pipe.vae.decode, mode="max-autotune", fullgraph=True)
    cond = torch.ones((batch, 77, 768), dtype=torch.float16, device="cuda")

    def run():
        pipe(
            prompt_embeds=cond,
            negative_prompt_embeds=-cond,
            guidance_scale=GUIDANCE,
            num_inference_steps=STEPS,
            output_type="pt",
        )
        torch.cuda.synchronize()

    return run, torch.cuda.max_memory_allocated


def main():
    parser = cli.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--layers", action="store_true", help="on a CPU: single layers")
    parser.add_argument(
        "--peak-tflops", type=float, default=989, help="of the GPU in 16 bits, dense (H100 and H200: 989)"
    )
    parser.add_argument("--contender", choices=CONTENDERS, help="time only this one, in this process")
    parser.add_argument("--batch", type=int, default=1)
    arguments = parser.parse_args()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # of this process and of those it starts
    if arguments.contender:
        contend(arguments.contender, arguments.batch, arguments.repeats, arguments.peak_tflops)
    elif arguments.layers:
        layers_on_cpu(arguments.repeats)
    elif jax.default_backend() == "cpu":
        on_cpu(arguments.repeats)
    else:
        on_gpu(arguments.repeats, arguments.peak_tflops)


if __name__ == "__main__":
    main()
