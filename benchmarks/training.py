"""Times training steps of the encoders at the paper's sizes: on a CPU beside PyTorch, on an accelerator with MFU.

python -m benchmarks.training [deepseek gemini ...] [--batch 16] [--repeats 2] [--compile]

A step is forward, the paper's loss against random embeddings, backward and Adam, in float32 on a CPU and in bfloat16
on an accelerator, without dropout and without reading data. On an accelerator the batch is the paper's, 1,151, and the
hours are those of the paper's 32 epochs of 2,212,933 clips.
"""

import argparse
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

import encoders
from benchmarks.timing import in_turns
from encoders.flops import count_flops
from jaxsd.config import load_config
from jaxsd.pretrained.precision import choose_dtype
from jaxsd.runtime import cli
from jaxsd.runtime.sharding import batch_sharding, replicate
from jaxsd.training.frozen_models import FrozenModels
from jaxsd.training.initialization import make_encoder
from jaxsd.training.loop import init_state, make_step
from jaxsd.training.losses import make_gradient
from jaxsd.training.optimizers import make_optimizer
from jaxsd.training.throughput import peak_flops

WIDTH, BATCH = 768, 1151
CLIPS = 2_212_933 // BATCH * BATCH * 32


def unit_rows(batch: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((batch, WIDTH)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def examples(batch: int) -> dict[str, np.ndarray]:
    audio = np.random.default_rng(0).integers(-8000, 8000, (batch, 16_000)).astype(np.int16)
    text, image = unit_rows(batch, 1), unit_rows(batch, 2)
    return {"audio": audio, "text": text, "image": image, "valid": np.ones(batch, bool)}


def projection() -> np.ndarray:
    return unit_rows(WIDTH, 3)


def ours(name: str, batch: dict[str, np.ndarray], accumulate: int) -> tuple[Callable[[], None], int]:
    """A function that makes a step, and the step's FLOPs."""
    config = load_config(name, [f"--config.accumulate={accumulate}", "--config.dropout=false"])
    graph, params = nnx.split(make_encoder(config, choose_dtype(None)))
    models_graph, frozen = nnx.split(FrozenModels(projection=nnx.Param(projection())))
    optimizer = make_optimizer(config, 1)
    gradient = make_gradient(config, graph, models_graph)
    step = make_step(gradient, optimizer, 0, average_decay=0.0)
    state = replicate(init_state({"encoder": nnx.as_pure(params)}, optimizer))
    batch, frozen = jax.device_put(batch, batch_sharding()), replicate(nnx.as_pure(frozen))
    flops = count_flops(step.trace(state, frozen, batch).jaxpr)

    def run():
        nonlocal state
        state, metrics = step(state, frozen, batch)
        jax.block_until_ready(metrics["loss"])

    return run, flops


def theirs(name: str, batch: dict[str, np.ndarray], compiled: bool) -> Callable[[], None]:
    """The same step as one writes it in PyTorch."""
    from benchmarks.parity import torch
    from tests.references.encoders import Sizes, torch_encoder

    sizes = nnx.eval_shape(lambda: encoders.create(name, rngs=nnx.Rngs(0))).config
    module = torch_encoder(name, Sizes(**sizes) if "depth" in sizes else None).eval()
    model = torch.compile(module) if compiled else module
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    audio, text, image = (torch.tensor(batch[name]) for name in ("audio", "text", "image"))
    project, labels = torch.tensor(projection()), torch.arange(len(audio))

    def run():
        vector = torch.nn.functional.normalize(model(audio).mean(dim=1) @ project, dim=-1)
        similarities = [matrix for target in (text, image) for matrix in (vector @ target.T, target @ vector.T)]
        loss = sum(torch.nn.functional.cross_entropy(matrix, labels) for matrix in similarities) / 6
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return run


def on_cpu(names: list[str], batch: dict[str, np.ndarray], repeats: int, compiled: bool):
    from benchmarks.parity import torch

    ways = ["jaxsd", "PyTorch eager"] + ["PyTorch compiled"] * compiled
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, batch {len(batch['audio'])}")
    print(f"| encoder | {' | '.join(f'{way}, s a step' for way in ways)} | jaxsd, clips/s | PyTorch eager : jaxsd |")
    print("|---" * (len(ways) + 3) + "|")
    for name in names:
        runs = {"jaxsd": ours(name, batch, 1)[0], "PyTorch eager": theirs(name, batch, False)}
        if compiled:
            runs["PyTorch compiled"] = theirs(name, batch, True)
        seconds = list(in_turns(runs, repeats).values())
        times = " | ".join(f"{taken:.3f}" for taken in seconds)
        rate, ratio = len(batch["audio"]) / seconds[0], seconds[1] / seconds[0]
        print(f"| {name} | {times} | {rate:.1f} | {ratio:.2f} |", flush=True)


def on_accelerator(names: list[str], batch: dict[str, np.ndarray], repeats: int, accumulate: int):
    print(f"bfloat16, batch {len(batch['audio'])} in {accumulate} part(s), {jax.device_count()} device(s)")
    print("| encoder | s a step | clips/s | MFU | hours for the paper's 32 epochs |")
    print("|---|---|---|---|---|")
    for name in names:
        run, flops = ours(name, batch, accumulate)
        seconds = in_turns({name: run}, repeats)[name]
        rate = len(batch["audio"]) / seconds
        mfu = f"{flops / seconds / peak_flops():.1%}" if peak_flops() else "unknown"
        print(f"| {name} | {seconds:.3f} | {rate:.0f} | {mfu} | {CLIPS / rate / 3600:.1f} |", flush=True)


def main():
    parser = cli.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", nargs="*", default=list(encoders.ENCODERS), help="which (default: all five)")
    parser.add_argument("--batch", type=int, help="clips a step (default: 16 on a CPU, 1151 on an accelerator)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--accumulate", type=int, default=1, help="parts of a batch, on an accelerator (1)")
    parser.add_argument("--compile", action="store_true", help="also time torch.compile, on a CPU")
    arguments = parser.parse_args()
    cpu = jax.default_backend() == "cpu"
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}")
    batch = examples(arguments.batch or (16 if cpu else BATCH))
    if cpu:
        on_cpu(arguments.encoders, batch, arguments.repeats, arguments.compile)
    else:
        on_accelerator(arguments.encoders, batch, arguments.repeats, arguments.accumulate)


if __name__ == "__main__":
    main()
