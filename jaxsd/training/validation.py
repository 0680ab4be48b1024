"""Validation: the figures of an encoder on the held-out split during training."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import PyTree

from jaxsd.clip.pooling import pool_embeddings
from jaxsd.config import TrainConfig
from jaxsd.diffusion.denoising import denoising_errors
from jaxsd.evaluation import metrics
from jaxsd.evaluation.figures import FIGURES
from jaxsd.runtime.sharding import batch_sharding, gather_examples, padded_batches, replicated_sharding
from jaxsd.training.curves import VALIDATION
from jaxsd.training.loop import TrainState

VALIDATION_COLUMNS = ("audio", "text", "image")
VALIDATION_BATCH = 256  # examples that are encoded at a time, at most


def validation_models(config: TrainConfig) -> tuple[str, ...]:
    """The attributes of FrozenModels that validation needs."""
    bos = ("bos",) if config.text_pooling == "bos" else ()
    return ("projection", *bos, *(("unet", "schedule", "unconditional") if config.weights.get("denoise") else ()))


def make_validation(
    config: TrainConfig,
    graph: nnx.GraphDef,
    models_graph: nnx.GraphDef,
    frozen: PyTree,
    data: Mapping[str, np.ndarray],
) -> Callable[[TrainState], dict[str, float]]:
    """The function that validates the encoder that a run would leave.

    Its figures are the paper's loss and metrics with retrieval (`jaxsd.evaluation.metrics`) over all examples at once.
    Where the U-Net's denoising loss is trained, it is a figure too, beside that of the empty text: while the first is
    above the second, the U-Net does not understand the encoder.

    Args:
        config: of the training.
        graph: the encoder's.
        models_graph: that of the FrozenModels, with the attributes of `validation_models`.
        frozen: the FrozenModels' arrays.
        data: the columns of the held-out split.

    Returns:
        `evaluate(state) -> figures` by name. Figures that are not finite, such as the R2 of constant targets, are left
        out.
    """
    denoise = bool(config.weights.get("denoise"))
    batch_size = min(config.denoise_batch or config.batch_size, VALIDATION_BATCH, len(data["audio"]))

    def errors(models, latents, context, key):
        return denoising_errors(models.unet, models.schedule, latents.astype(jnp.float32), context, key)[0]

    @partial(jax.jit, out_shardings=replicated_sharding())
    def under_audio(params, frozen, batch, key):
        models = nnx.merge(models_graph, frozen)
        hidden_states = nnx.merge(graph, params)(batch["audio"])
        outputs = {"embeddings": pool_embeddings(hidden_states, models.projection[...], config.audio_pooling)}
        return outputs | ({"denoise": errors(models, batch["latents"], hidden_states, key)} if denoise else {})

    @partial(jax.jit, out_shardings=replicated_sharding())
    def under_empty_text(frozen, batch, key):
        models = nnx.merge(models_graph, frozen)
        empty = models.unconditional[...]
        context = jnp.broadcast_to(empty, (len(batch["latents"]), *empty.shape[1:]))
        return errors(models, batch["latents"], context, key)

    unconditional = {}  # does not depend on the encoder, and is computed once

    def evaluate(state: TrainState) -> dict[str, float]:
        columns = ["audio", "latents"] if denoise else ["audio"]
        outputs = map_examples(partial(under_audio, state.average["encoder"], frozen), data, columns, batch_size)
        text, image = (np.asarray(data[name], np.float32) for name in ("text", "image"))
        if config.text_pooling == "bos":
            text = np.broadcast_to(frozen["bos"], text.shape)
        figures = metrics.alignment(outputs["embeddings"], text, image)
        for subscript, target in (("t", text), ("i", image)):
            regression = metrics.Regression(target.shape[1])
            regression.add(outputs["embeddings"], target)
            found = regression.figures()
            figures |= {f"{name}_{subscript}": found[name] for name in ("mu(MSE)", "mu(R2)")}
        if denoise:
            if not unconditional:
                errors = map_examples(partial(under_empty_text, frozen), data, ["latents"], batch_size)
                unconditional["denoise_unconditional"] = errors.mean()
            figures |= {"denoise": outputs["denoise"].mean()} | unconditional
        return {f"{VALIDATION}{name}": float(value) for name, value in figures.items() if np.isfinite(value)}

    return evaluate


def map_examples(function: Callable, data: Mapping[str, np.ndarray], names: Sequence[str], batch_size: int) -> PyTree:
    """The outputs of `function(batch, key)` for all examples of `data`; a batch has the same key every time.

    `names` are the columns of a batch, which has `batch_size` examples, or as many more as the devices need.
    """
    sharding = batch_sharding()
    size = -(-batch_size // sharding.num_devices) * sharding.num_devices
    outputs = []
    for place, (indices, valid) in enumerate(padded_batches(len(data[names[0]]), size)):
        batch = {name: gather_examples(data[name], indices, sharding) for name in names}
        output = jax.device_get(function(batch, jax.random.key(place)))
        outputs.append(jax.tree.map(lambda x, valid=valid: x[:valid], output))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *outputs)


def explain_validation(config: TrainConfig) -> str:
    """What `summarize_validation` shows, for the terminal, in lines of under 80 characters."""
    lines = [
        "a validation shows, of held-out sounds:",
        "  loss   in brackets that of embeddings which know nothing (chance)",
        "  R@10   how often a sound's own caption is among the 10 nearest to it",
    ]
    if config.weights.get("denoise"):
        lines.append("  gain   how much lower the image model's error is than without the sound")
    return "\n".join(lines)


def summarize_validation(figures: Mapping[str, float], count: int) -> str:
    """The figures that matter, of `count` held-out examples, with their chance levels: a line of under 80 characters.

    The denoising gain is the loss under the empty text minus that under the audio.
    """
    figures = {name.removeprefix(VALIDATION): value for name, value in figures.items()}
    parts = []
    if "loss" in figures:
        # The paper's loss is a sixth of two TCEOCS, each of which is `chance` for embeddings that say nothing.
        parts.append(f"loss {figures['loss']:.2f} (chance {2 * figures['chance'] / 6:.2f})")
    recall = FIGURES["R@10_a2t"]
    assert recall.chance
    parts.append(f"R@10 {recall.write(figures[recall.key])} (chance {recall.write(recall.chance(count))})")
    if "denoise" in figures:
        gain = figures["denoise_unconditional"] - figures["denoise"]
        parts.append(f"gain {FIGURES['denoising gain'].write(gain)}")
    return "  ".join(parts)
