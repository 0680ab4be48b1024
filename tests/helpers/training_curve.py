"""The losses of 20 steps of the paper's training of a tiny encoder: python -m tests.helpers.training_curve [ACCUMULATE]

With --coordinator, --num-processes and --process-id it is one of several processes; the losses are the same.
"""

import argparse
import json

import jax
import numpy as np
from flax import nnx

import encoders
from jaxsd.config import load_config
from jaxsd.data.loader import Loader
from jaxsd.runtime import cli
from jaxsd.runtime.sharding import replicate
from jaxsd.training.frozen_models import FrozenModels
from jaxsd.training.loop import init_state, make_step
from jaxsd.training.losses import loss_columns, make_gradient
from jaxsd.training.optimizers import make_optimizer

STEPS, WIDTH = 20, 16


def losses(accumulate: int = 1) -> list[float]:
    config = load_config("deepseek.py", [f"--config.accumulate={accumulate}", "--config.dropout=false"])
    rng = np.random.default_rng(0)
    size = config.batch_size * 2
    unit = {name: rng.standard_normal((size, WIDTH)) for name in ("text", "image")}
    data = {name: (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16) for name, x in unit.items()}
    data["audio"] = rng.integers(-9000, 9000, (size, 16_000)).astype(np.int16)
    loader = Loader(data, loss_columns(config), config.batch_size, config.seed, parts=accumulate)

    encoder = encoders.create("deepseek", width=WIDTH, depth=1, heads=2, mlp=32, rngs=nnx.Rngs(0))
    graph, params = nnx.split(encoder)
    projection = nnx.Param(rng.standard_normal((WIDTH, WIDTH)).astype(np.float32))
    models_graph, frozen = nnx.split(FrozenModels(projection=projection))
    optimizer = make_optimizer(config, STEPS)
    step = make_step(make_gradient(config, graph, models_graph), optimizer, config.seed)
    state = init_state({"encoder": nnx.as_pure(params)}, optimizer)
    state, frozen = replicate((state, nnx.as_pure(frozen)))
    batches = loader.batches()
    found = []
    for _ in range(STEPS):
        state, metrics = step(state, frozen, next(batches))
        found.append(float(metrics["loss"]))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("accumulate", type=int, nargs="?", default=1)
    cli.add_distributed_arguments(parser)
    arguments = parser.parse_args()
    cli.start_distributed(arguments)
    found = losses(arguments.accumulate)
    if jax.process_index() == 0:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
