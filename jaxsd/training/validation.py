"""Watching training on held-out data."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsd.clip.pooling import pool_embeddings
from jaxsd.config import TrainConfig
from jaxsd.diffusion.denoising import denoising_errors_at, draw_noise
from jaxsd.evaluation import metrics
from jaxsd.sharding import batch_sharding, gather_examples, replicated_sharding
from jaxsd.training.loop import PyTree, TrainState

TOGETHER = 256  # rows at a time, at most


def make_validation(config: TrainConfig, graph, targets_graph, frozen, data: Mapping[str, np.ndarray]) -> Callable:
    """`evaluate(state) -> figures` of the encoder that a run would leave, over all rows of `data` at once.

    The paper's loss and metrics with retrieval (see jaxsd.evaluation.metrics) and, where there are latents, the frozen
    U-Net's denoising loss under the audio beside the unconditional one: above that, the U-Net does not understand the
    encoder.
    `graph` is the encoder's; `targets_graph` and `frozen` are jaxsd.training.frozen_models.Targets. Figures that
    are not finite, such as the R2 of constant targets, are left out.
    """
    count = len(data["audio"])
    denoise = "latents" in data
    together = min(config.denoise_batch or config.batch_size, TOGETHER, count)

    def errors(targets, batch, context, key):
        latents = batch["latents"].astype(jnp.float32)
        drawn = draw_noise(key, latents, targets.schedule)
        return denoising_errors_at(targets.unet, targets.schedule, latents, context, *drawn)[0]

    @partial(jax.jit, out_shardings=replicated_sharding())
    def under_audio(params, frozen, batch, key):
        targets = nnx.merge(targets_graph, frozen)
        hidden = nnx.merge(graph, params)(batch["audio"])
        outputs = {"vector": pool_embeddings(hidden, targets.projection[...], config.audio_pooling)}
        return outputs | ({"denoise": errors(targets, batch, hidden, key)} if denoise else {})

    @partial(jax.jit, out_shardings=replicated_sharding())
    def unconditional(frozen, batch, key):
        targets = nnx.merge(targets_graph, frozen)
        context = jnp.broadcast_to(targets.empty[...], (len(batch["latents"]), *targets.empty.shape[1:]))
        return errors(targets, batch, context, key)

    def over_data(function, names) -> PyTree:
        """What `function(batch, key)` gives for all rows; a batch has the same key every time."""
        batches = enumerate(in_order({name: data[name] for name in names}, together))
        outputs = [jax.device_get(function(batch, jax.random.key(index))) for index, batch in batches]
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *outputs)

    known = {}  # what does not depend on the encoder

    def evaluate(state: TrainState) -> dict[str, float]:
        names = ["audio"] + ["latents"] * denoise
        outputs = over_data(partial(under_audio, state.average["encoder"], frozen), names)
        text, image = (np.asarray(data[name], np.float32) for name in ("text", "image"))
        if config.text_pooling == "bos":
            text = np.broadcast_to(frozen["bos"], text.shape)
        figures = metrics.alignment(outputs["vector"], text, image)
        for subscript, target in (("t", text), ("i", image)):
            regression = metrics.Regression(target.shape[1])
            regression.add(outputs["vector"], target)
            found = regression.figures()
            figures |= {f"{name}_{subscript}": found[name] for name in ("mu(MSE)", "mu(R2)")}
        if denoise:
            if not known:
                known["denoise_unconditional"] = over_data(partial(unconditional, frozen), ["latents"]).mean()
            figures |= {"denoise": outputs["denoise"].mean()} | known
        return {f"validation_{name}": value for name, value in figures.items() if np.isfinite(value)}

    return evaluate


def in_order(columns: Mapping[str, np.ndarray], size: int) -> Iterator[dict[str, jax.Array]]:
    """All rows in batches of `size`, or the next multiple of the devices, spread over them; the last repeats rows."""
    sharding = batch_sharding()
    count = len(next(iter(columns.values())))
    size = -(-size // sharding.num_devices) * sharding.num_devices
    for start in range(0, count, size):
        rows = np.arange(start, start + size) % count
        yield {name: gather_examples(column, rows, sharding) for name, column in columns.items()}
