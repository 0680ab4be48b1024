"""Compiles the project's programs for a GPU that is not here, and reads what XLA made of them.

python -m benchmarks.compiled [--target h100] [--programs REGEX] [--dtype bfloat16] [--kernels 10]

XLA's compiler for GPUs needs no GPU, only the wheels of jax[cuda12]. For each program: the memory that it needs beside
its arguments, the kernels that it starts, the bytes that they move, and a floor of its time, which is for each kernel
the longer of bytes / bandwidth and FLOPs / rate; beside it the time of the FLOPs alone, and the MFU that the floor
allows. A floor is no time: latencies, launches and integer work (random numbers) are not in it, nothing was run, and
nothing was autotuned. It serves to compare two versions of one program.

Products are cuBLAS's here: without a device XLA cannot try Triton's, and refuses some of them.
"""

import os

from jaxsd.runtime import cli

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the plugin for CUDA then asks for no driver
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # from which a program for another device cannot be read

import argparse
import importlib.util
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental.topologies import get_topology_desc
from jax.sharding import Mesh
from jax.stages import Compiled, Lowered
from jaxtyping import PyTree

import encoders
from benchmarks import hlo
from encoders.layers import abstract, rematerialize
from jaxsd.clip.towers import CLIPModel, TextModel, VisionConfig
from jaxsd.config import load_config
from jaxsd.diffusion import programs
from jaxsd.diffusion.kernels import parameter_formats
from jaxsd.diffusion.loading import SD15_TEXT, SD15_UNET, SD15_VAE
from jaxsd.diffusion.samplers import NoiseSchedule, init_history, make_sampler
from jaxsd.diffusion.unet import UNet
from jaxsd.diffusion.vae import VAE
from jaxsd.runtime.cli import run
from jaxsd.runtime.sharding import AXIS, batch_sharding, replicated_sharding
from jaxsd.training.frozen_models import FrozenModels
from jaxsd.training.initialization import make_encoder
from jaxsd.training.loop import init_state, make_step
from jaxsd.training.losses import make_gradient, make_losses
from jaxsd.training.optimizers import make_optimizer

GIB = 2**30
# Shares of the data sheet's bandwidth and FLOP/s that large copies and products reach.
BANDWIDTH_SHARE, FLOPS_SHARE = 0.9, 0.8
OPTIONS = {"xla_gpu_enable_triton_gemm": False}


@dataclass(frozen=True)
class Target:
    """A GPU as its data sheet has it: bandwidth in bytes/s, dense bfloat16 FLOP/s, memory and caches in bytes."""

    name: str
    capability: tuple[int, int]
    cores: int
    lanes: int  # float32 units of a core
    shared_memory: int  # of a core
    l2: int
    clock_ghz: float
    bandwidth: float
    flops: float
    memory: int

    def devices(self, count: int) -> list:
        major, minor = self.capability
        config = f"""gpu_device_info {{
          threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: {2048 if minor == 0 else 1536}
          shared_memory_per_block: 49152 shared_memory_per_core: {self.shared_memory}
          shared_memory_per_block_optin: {self.shared_memory - 1024} core_count: {self.cores}
          fpus_per_core: {self.lanes} registers_per_core_limit: 65536 registers_per_block_limit: 65536
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
          memory_bandwidth: {int(self.bandwidth)} l2_cache_size: {self.l2} clock_rate_ghz: {self.clock_ghz}
          device_memory_size: {self.memory} cuda_compute_capability {{ major: {major} minor: {minor} }}
          device_vendor: "NVIDIA Corporation" platform_version: "Compute Capability {major}.{minor}"
          model_str: "sm_{major}.{minor}, {self.cores} cores" device_address_bits: 64 pcie_bandwidth: 34359738368
          ecc_enabled: true name: "{self.name}" driver_version: "13.0.0" runtime_version: "12.9.0"
          compile_time_toolkit_version: "12.9.0" dnn_version: "9.10.0"
        }}
        platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 patch: 0 }} device_description_str: "{self.name}"
        """
        return list(get_topology_desc(self.name, "cuda", target_config=config, topology=f"1x1x{count}").devices)


TARGETS = {
    "h100": Target("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 233_472, 50 << 20, 1.98, 3.35e12, 989e12, 84_942_979_072),
    "a100": Target("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 167_936, 40 << 20, 1.41, 2.04e12, 312e12, 84_974_239_744),
    "l4": Target("NVIDIA L4", (8, 9), 58, 128, 102_400, 48 << 20, 2.04, 3.0e11, 121e12, 23_797_432_320),
    "rtx4090": Target(
        "NVIDIA GeForce RTX 4090", (8, 9), 128, 128, 102_400, 72 << 20, 2.52, 1.01e12, 165e12, 25_252_724_736
    ),
}


def answer_for(target: Target) -> None:
    """JAX asks the device at hand which fused attention it has; here the target answers."""
    from jax._src.cudnn import fused_attention_stablehlo as fused

    def at_least(capability: str) -> bool:
        return target.capability >= tuple(int(part) for part in capability.split("."))

    fused.check_compute_capability = at_least


@dataclass(frozen=True)
class Program:
    """`lower(mesh, dtype, batch)` traces and lowers it for the devices of a mesh."""

    lower: Callable[[Mesh, jnp.dtype, int], Lowered]
    batch: int
    devices: int = 1


def described(tree: PyTree, sharding, dtype=None) -> PyTree:
    """Arrays as shapes on the devices of a sharding; floating-point ones as `dtype` where it is given."""

    def describe(x):
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        return jax.ShapeDtypeStruct(x.shape, dtype if dtype and floating else x.dtype, sharding=sharding)

    return jax.tree.map(describe, tree)


def split(make: Callable[..., nnx.Module], sharding, dtype=None) -> tuple[nnx.GraphDef, PyTree]:
    """The graph and the described parameters of what `make(rngs=...)` makes."""
    graph, params = nnx.split(abstract(make))
    return graph, described(params, sharding, dtype)


def stable_diffusion(mesh: Mesh, dtype, merge_tokens: float = 0.0) -> tuple[nnx.GraphDef, PyTree]:
    def make(rngs):
        unet = UNet(SD15_UNET, dtype=dtype, rngs=rngs)
        return programs.Networks(
            unet.with_merged_tokens(merge_tokens) if merge_tokens else unet, VAE(SD15_VAE, dtype=dtype, rngs=rngs)
        )

    graph, params = nnx.split(abstract(make))
    formats = parameter_formats(params, mesh)
    return graph, jax.tree.map(lambda x, format: jax.ShapeDtypeStruct(x.shape, dtype, sharding=format), params, formats)


def sampling_step(
    mesh: Mesh,
    dtype,
    batch: int,
    side: int = 64,
    *,
    sampler: str = "pndm",
    guided: bool = True,
    merge_tokens: float = 0.0,
    reusing: bool = False,
) -> Lowered:
    """A step of a sampler, by default that which SD 1.5 names, with guidance, at `side` latents.

    merge_tokens: the share of the tokens that the finest self-attentions merge. reusing: whether the deep features are
    those of an earlier step.
    """
    graph, params = stable_diffusion(mesh, dtype, merge_tokens)
    table = make_sampler(sampler, NoiseSchedule(), 50)
    unet = nnx.merge(graph, params).unet
    halves = 2 if guided else 1
    noise = jax.ShapeDtypeStruct((batch, side, side, 4), jnp.float32)
    history = jax.eval_shape(partial(init_history, table), noise)
    context = jnp.zeros((halves * batch, 77, 768))
    keys_values = nnx.eval_shape(lambda unet, x: unet.keys_values(x), unet, context)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch))
    inputs = programs.StepInputs(history, programs.Attended(keys_values), keys)
    scales = programs.StepScales(table.rows()[0], np.float32(7.5))
    if not reusing:
        return programs.denoise.lower(graph, mesh, params, scales, described(inputs, batch_sharding(mesh)))
    latents = jnp.zeros((halves * batch, side, side, 4))
    inputs_of_unet = unet, latents, jnp.zeros(halves * batch), keys_values
    deep = nnx.eval_shape(lambda unet, *rest: unet.denoise_deep(*rest)[1], *inputs_of_unet)
    parts = described((inputs, deep), batch_sharding(mesh))
    return programs.denoise_reusing.lower(graph, mesh, params, scales, parts)


def vae_decode(mesh: Mesh, dtype, batch: int) -> Lowered:
    graph, params = stable_diffusion(mesh, dtype)
    latents = jax.ShapeDtypeStruct((batch, 64, 64, 4), jnp.float32, sharding=batch_sharding(mesh))
    return programs.decode_images.lower(graph, mesh, params, None, latents)


def vae_encode(mesh: Mesh, dtype, batch: int) -> Lowered:
    graph, params = stable_diffusion(mesh, dtype)
    images = jax.ShapeDtypeStruct((batch, 512, 512, 3), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch))
    return programs.encode_images.lower(graph, mesh, params, None, described((images, keys), batch_sharding(mesh)))


def clip_tower(method: str, shape: tuple[int, ...], kind, mesh: Mesh, dtype, batch: int) -> Lowered:
    vision = VisionConfig(1024, 4096, 24, 16, patch_size=14)
    graph, params = split(partial(CLIPModel, SD15_TEXT, vision, 768, dtype=dtype), replicated_sharding(mesh), dtype)
    x = jax.ShapeDtypeStruct((batch, *shape), kind, sharding=batch_sharding(mesh))
    return jax.jit(lambda params, x: getattr(nnx.merge(graph, params), method)(x)).lower(params, x)


def encoder_forward(name: str, mesh: Mesh, dtype, batch: int) -> Lowered:
    graph, params = split(partial(encoders.create, name, dtype=dtype), replicated_sharding(mesh))
    clips = jax.ShapeDtypeStruct((batch, 16_000), jnp.int16, sharding=batch_sharding(mesh))
    return jax.jit(lambda params, clips: nnx.merge(graph, params)(clips)).lower(params, clips)


def training_step(source: str, overrides: tuple[str, ...], mesh: Mesh, dtype, batch: int) -> Lowered:
    """The step that `train.py --config SOURCE` runs, on features of CLIP ViT-L/14 and Stable Diffusion 1.5."""
    config = load_config(source, [f"--config.{override}" for override in (f"batch_size={batch}", *overrides)])
    everywhere, spread = replicated_sharding(mesh), batch_sharding(mesh)
    losses = make_losses(config, mesh)
    available = {
        "projection": lambda rngs: nnx.Param(jnp.zeros((768, 768))),
        "text_model": partial(TextModel, SD15_TEXT, dtype=dtype),
        "unet": partial(UNet, SD15_UNET, dtype=dtype),
        "schedule": lambda rngs: NoiseSchedule(),
    }
    names = {"projection", *(name for loss in losses.values() for name in loss.models)}
    encoder = nnx.eval_shape(lambda: make_encoder(config, dtype))
    models = abstract(lambda rngs: FrozenModels(**{name: available[name](rngs=rngs) for name in sorted(names)}))
    if config.remat:
        rematerialize(encoder)
        rematerialize(models)
    graph, params = nnx.split(encoder)
    models_graph, frozen = nnx.split(models)
    trained = {"encoder": nnx.as_pure(params)}
    for loss in losses.values():
        trained |= loss.init_params()
    optimizer = make_optimizer(config, config.warmup + 1)
    state = described(jax.eval_shape(lambda params: init_state(params, optimizer), trained), everywhere)
    columns = {"audio": ((16_000,), jnp.int16), "text": ((768,), jnp.float16), "image": ((768,), jnp.float16)}
    columns |= {"tokens": ((77,), jnp.int32), "latents": ((64, 64, 4), jnp.float16), "valid": ((), jnp.bool_)}
    used = {"audio", "valid", *(name for loss in losses.values() for name in loss.columns)}
    examples = {name: jax.ShapeDtypeStruct((batch, *columns[name][0]), columns[name][1]) for name in sorted(used)}
    step = make_step(
        make_gradient(config, graph, models_graph, mesh), optimizer, config.seed, config.average_decay, mesh
    )
    return step.trace(state, described(nnx.as_pure(frozen), everywhere, dtype), described(examples, spread)).lower()


PROGRAMS: dict[str, Program] = {
    **{f"U-Net step, guidance, batch {batch}": Program(sampling_step, batch) for batch in (1, 4, 16)},
    "U-Net step, guidance, half of the tokens merged": Program(partial(sampling_step, merge_tokens=0.5), 1),
    "U-Net step, guidance, deep features reused": Program(partial(sampling_step, reusing=True), 1),
    "U-Net step, LCM without guidance": Program(partial(sampling_step, sampler="lcm", guided=False), 1),
    "VAE decode": Program(vae_decode, 1),
    "VAE encode": Program(vae_encode, 1),
    "text tower": Program(partial(clip_tower, "embed_text", (77,), jnp.int32), 64),
    "vision tower": Program(partial(clip_tower, "embed_image", (224, 224, 3), jnp.float32), 64),
    **{f"{name} forward": Program(partial(encoder_forward, name), 1000) for name in encoders.ENCODERS},
    **{
        f"{name} training, {kind}": Program(partial(training_step, name, (f"dropout={kind == 'dropout'}",)), 1151)
        for name in encoders.ENCODERS
        for kind in ("no dropout", "dropout")
    },
    "deepseek:aligned training": Program(partial(training_step, "deepseek:aligned", ()), 1151),
    "gemini:denoise training, batch 32": Program(partial(training_step, "gemini:denoise", ()), 32),
    "gemini:denoise training": Program(partial(training_step, "gemini:denoise", ()), 128),
    "gemini:aligned+denoise training": Program(partial(training_step, "gemini:aligned+denoise", ()), 1151),
    "U-Net step, 8 devices": Program(sampling_step, 8, 8),
    "deepseek training, 8 devices": Program(partial(training_step, "deepseek", ()), 1152, 8),
    "gemini:denoise training, 8 devices": Program(partial(training_step, "gemini:denoise", ()), 128, 8),
}


@dataclass(frozen=True)
class Figures:
    """What a compiled program needs of one device: bytes, kernels, and seconds at the least."""

    arguments: int
    temporary: int
    kernels: int
    moved: int
    floor: float
    products: float  # seconds of the FLOPs alone
    collectives: int
    collective_bytes: int


def read(compiled: Compiled, target: Target) -> tuple[Figures, list[tuple[float, hlo.Kernel]]]:
    """The figures of a program, and its kernels with their seconds, longest first."""
    counts: Counter[hlo.Kernel] = Counter()
    for kernel in hlo.kernels(compiled.as_text()):  # those that are alike together
        counts[replace(kernel, count=1)] += kernel.count
    found = [replace(kernel, count=count) for kernel, count in counts.items()]
    rate = FLOPS_SHARE * target.flops

    def seconds(kernel: hlo.Kernel) -> float:  # float32 products run as TF32 at half the rate
        products = kernel.flops / rate * (2 if kernel.full_precision else 1)
        return kernel.count * max(products, kernel.bytes / (BANDWIDTH_SHARE * target.bandwidth))

    exchanged = [kernel for kernel in found if kernel.kind.startswith(hlo.COLLECTIVES)]
    memory = compiled.memory_analysis()
    figures = Figures(
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes,
        sum(kernel.count for kernel in found),
        sum(kernel.count * kernel.bytes for kernel in found),
        sum(map(seconds, found)),
        sum(kernel.count * kernel.flops for kernel in found) / rate,
        sum(kernel.count for kernel in exchanged),
        sum(kernel.count * kernel.bytes // 2 for kernel in exchanged),
    )
    return figures, sorted(((seconds(kernel), kernel) for kernel in found), key=lambda pair: -pair[0])


def compile_program(program: Program, target: Target, dtype, batch: int) -> Compiled:
    mesh = Mesh(np.array(target.devices(program.devices)), (AXIS,))
    return program.lower(mesh, dtype, batch).compile(compiler_options=OPTIONS)


def table(names: list[str], target: Target, dtype, largest: int, texts: Path | None) -> None:
    print(f"{target.name}, {dtype.name}, jax {jax.__version__}")
    print("| program | batch | arguments, GiB | more, GiB | kernels | moved, GB | floor, ms | FLOPs alone, ms | MFU |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in names:
        program, start = PROGRAMS[name], time.perf_counter()
        compiled = compile_program(program, target, dtype, program.batch)
        taken = time.perf_counter() - start
        figures, heaviest = read(compiled, target)
        mfu = FLOPS_SHARE * figures.products / figures.floor
        cells = (
            *(name, program.batch, f"{figures.arguments / GIB:.2f}", f"{figures.temporary / GIB:.2f}"),
            *(figures.kernels, f"{figures.moved / 1e9:.1f}"),
            *(f"{1e3 * figures.floor:.2f}", f"{1e3 * figures.products:.2f}", f"{mfu:.0%}"),
        )
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
        if figures.collectives:
            print(f"  {figures.collectives} collectives, {figures.collective_bytes / 1e6:.1f} MB a device")
        if largest:
            print(f"  compiled in {taken:.0f} s")
        for seconds, kernel in heaviest[:largest]:
            size = f"x {kernel.count}: {kernel.bytes / 1e6:.0f} MB, {kernel.flops / 1e9:.0f} GFLOP"
            print(f"  {1e3 * seconds:7.2f} ms {kernel.kind} {size} {kernel.shape[:70]} {kernel.source[-90:]}")
        if texts:
            texts.mkdir(parents=True, exist_ok=True)
            (texts / (re.sub(r"[^\w:+-]+", "-", name) + ".txt")).write_text(compiled.as_text())


def main() -> int | None:
    parser = cli.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", choices=TARGETS, default="h100")
    parser.add_argument("--programs", default="", help="a regular expression; those whose names it matches (all)")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--kernels", type=int, default=0, help="also list so many of a program's longest kernels")
    parser.add_argument("--hlo", type=Path, help="a folder for the programs' texts")
    arguments = parser.parse_args()
    if not importlib.util.find_spec("jax_cuda12_plugin"):
        raise ValueError("compiling for a GPU needs jax[cuda12]; `make gpu-check` sets up an environment that has it")
    names = [name for name in PROGRAMS if re.search(arguments.programs, name)]
    if not names:
        raise ValueError(f"no program's name matches {arguments.programs!r}; there are {', '.join(PROGRAMS)}")
    target = TARGETS[arguments.target]
    answer_for(target)
    table(names, target, jnp.dtype(arguments.dtype), arguments.kernels, arguments.hlo)


if __name__ == "__main__":
    run(main)
