"""Times the five encoders at the paper's sizes beside PyTorch eager, on the same machine in one run.

python -m benchmarks.encoders [--batch 32] [--repeats 7]
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import encoders
from benchmarks.parity import torch
from benchmarks.timing import in_turns
from jaxsd.runtime import cli
from tests.references.encoders import Sizes, torch_encoder


def ours(name: str, pcm: np.ndarray):
    """Forward, and forward with the gradients of every parameter, without dropout."""
    graph, params = nnx.split(encoders.create(name, rngs=nnx.Rngs(0)))
    forward = jax.jit(lambda params, pcm: nnx.merge(graph, params)(pcm))
    gradient = jax.jit(jax.grad(lambda params, pcm: jnp.sum(nnx.merge(graph, params)(pcm) ** 2)))
    return (
        lambda: jax.block_until_ready(forward(params, pcm)),
        lambda: jax.block_until_ready(gradient(params, pcm)),
    )


def theirs(name: str, pcm: np.ndarray):
    sizes = nnx.eval_shape(lambda: encoders.create(name, rngs=nnx.Rngs(0))).config
    model = torch_encoder(name, Sizes(**sizes) if "depth" in sizes else None).eval()
    x = torch.tensor(pcm)

    def forward():
        with torch.no_grad():
            model(x)

    def gradient():
        model.zero_grad()
        (model(x) ** 2).sum().backward()

    return forward, gradient


def main():
    parser = cli.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count())
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, torch {torch.__version__}, {os.cpu_count()} cores")
    print("| encoder | pass | jaxsd, s | PyTorch eager, s | PyTorch : jaxsd |")
    print("|---|---|---|---|---|")
    pcm = np.random.default_rng(0).integers(-8000, 8000, (arguments.batch, 16_000)).astype(np.int16)
    for name in encoders.ENCODERS:
        pairs = zip(("forward", "forward + backward"), ours(name, pcm), theirs(name, pcm), strict=True)
        for what, mine, other in pairs:
            taken = in_turns({"jaxsd": mine, "PyTorch": other}, arguments.repeats)
            a, b = taken.values()
            print(f"| {name} | {what} | {a:.3f} | {b:.3f} | {b / a:.2f} |", flush=True)


if __name__ == "__main__":
    main()
