"""Training an audio encoder: towards CLIP's embeddings and hidden states, through the frozen U-Net, or both."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import encoders
from encoders.layers import rematerialize
from jaxsd.clip.pooling import POOLINGS, pool_embeddings
from jaxsd.config import TrainConfig, one_of
from jaxsd.data.columns import METADATA, open_columns
from jaxsd.data.loader import Loader
from jaxsd.diffusion.denoising import denoising_errors_at, draw_noise
from jaxsd.files import read_json, write_json
from jaxsd.pretrained.precision import choose_dtype
from jaxsd.sharding import batch_sharding, replicate, replicated_sharding
from jaxsd.training.frozen_models import load_frozen_models
from jaxsd.training.grad_cache import value_and_gradient
from jaxsd.training.loop import fit, init_state, make_step
from jaxsd.training.losses import cross_entropies
from jaxsd.training.optimizers import OPTIMIZERS, SCHEDULES, make_optimiser
from jaxsd.training.validation import make_validation

PyTree = Any
FIRST_SCALE = 1 / 0.07  # CLIP's initial inverse temperature
LARGEST_SCALE = 100.0

TEXT_POOLINGS = ("eos", "bos")
DTYPES = ("auto", "float32", "bfloat16")


def train(config: TrainConfig, folder, *, wandb: bool = False) -> nnx.Module:
    """Train as `config` says on the data set in `config.data.folder`, into `folder`; the encoder that it leaves.

    `folder` gets config.json, what `jaxsd.training.loop.fit` leaves, encoder.json and model.safetensors; `wandb` logs
    to Weights & Biases too. Raises ValueError or FileNotFoundError where the config, the data and the models do not
    fit each other, or where `folder` holds a run of another config; then nothing is written.
    """
    folder = Path(folder)
    validate_config(config)
    data, held_out = (open_training_split(config, split) for split in ("train", "validation"))
    loader = Loader(data, wanted_columns(config), config.batch_size, config.seed, parts=config.accumulate)
    steps = config.steps or config.epochs * loader.steps_per_epoch
    if config.warmup >= steps:
        raise ValueError(f"warmup is {config.warmup}; it must be less than the steps of training, {steps}")
    check_or_write_config(folder, config, write=False)
    dtype = choose_dtype(None if config.dtype == "auto" else config.dtype)
    encoder = make_encoder(config, dtype)
    targets = load_frozen_models(config, Path(config.data.folder) / "train", dtype)
    if config.remat:
        rematerialize(encoder)
        rematerialize(targets)
    check_or_write_config(folder, config)

    graph, params = nnx.split(encoder)
    params = {"encoder": nnx.as_pure(params)}
    if config.learned_temperature:
        params["log_scale"] = jnp.float32(math.log(FIRST_SCALE))
    targets_graph, frozen = nnx.split(targets)
    frozen = replicate(nnx.as_pure(frozen))
    optimiser = make_optimiser(config, steps)
    gradient = make_gradient(config, graph, targets_graph)
    state = fit(
        folder,
        f"train {folder.name}",
        init_state(params, optimiser),
        make_step(None, optimiser, config.seed, average_decay=config.average_decay, gradient_fn=gradient),
        loader.batches,
        steps,
        frozen=frozen,
        save_every=config.save_every,
        evaluate=make_validation(config, graph, targets_graph, frozen, held_out),
        eval_every=config.eval_every or loader.steps_per_epoch,
        wandb=wandb,
    )
    trained = nnx.merge(graph, state.average["encoder"])
    if jax.process_index() == 0:
        encoders.save(trained, folder)
    return trained


# --- what is asked for ----------------------------------------------------------------------------------------------


def validate_config(config: TrainConfig):
    """Raise ValueError, in one sentence, for values that no training can have."""
    one_of("encoder", config.encoder, encoders.ENCODERS)
    one_of("text_pooling", config.text_pooling, TEXT_POOLINGS)
    one_of("audio_pooling", config.audio_pooling, POOLINGS)
    one_of("optimizer", config.optimizer, OPTIMIZERS)
    one_of("schedule", config.schedule, SCHEDULES)
    one_of("dtype", config.dtype, DTYPES)
    if (config.epochs > 0) == (config.steps > 0):
        raise ValueError(f"epochs is {config.epochs} and steps is {config.steps}; one of them must be 0, not both")
    for key in ("batch_size", "accumulate", "save_every"):
        if getattr(config, key) < 1:
            raise ValueError(f"{key} is {getattr(config, key)}; it must be at least 1")
    for key in ("epochs", "steps", "warmup", "eval_every", "weight_decay", "clip_norm", "learning_rate"):
        if getattr(config, key) < 0:
            raise ValueError(f"{key} is {getattr(config, key)}; it must not be negative")
    if config.weight_decay and config.optimizer != "adamw":
        raise ValueError(f"weight_decay is {config.weight_decay}, which needs --config.optimizer=adamw")
    if not 0 <= config.average_decay < 1:
        raise ValueError(f"average_decay is {config.average_decay}; allowed: 0 to below 1")
    if min(config.weights.values()) < 0 or not any(config.weights.values()):
        raise ValueError(f"weights are {config.weights}; allowed: none below 0, one above")
    if not 0 <= config.denoise_batch <= config.batch_size:
        raise ValueError(f"denoise_batch is {config.denoise_batch}; allowed: 0 to batch_size, {config.batch_size}")
    if config.weights["denoise"] and denoised(config) % config.accumulate:
        raise ValueError(f"accumulate is {config.accumulate}; it must divide the {denoised(config)} rows to denoise")


def denoised(config: TrainConfig) -> int:
    """The rows of a batch that go through the U-Net."""
    return config.denoise_batch or config.batch_size


def wanted_columns(config: TrainConfig) -> list[str]:
    columns = {"contrastive": ("text", "image"), "sequence": ("tokens",), "denoise": ("latents",)}
    return ["audio"] + [name for part, names in columns.items() if config.weights[part] for name in names]


def open_training_split(config: TrainConfig, split: str) -> dict[str, np.ndarray]:
    """The columns of a split. Raises FileNotFoundError or ValueError that say how to make what is missing."""
    folder = Path(config.data.folder) / split
    make = f"python -m jaxsd.data prepare MANIFEST --out {config.data.folder}"
    if not (folder / METADATA).is_file():
        raise FileNotFoundError(f"{folder} holds no data; {make} makes it")
    columns = open_columns(folder)
    if missing := [name for name in (*wanted_columns(config), "text", "image") if name not in columns]:
        latents = " --latents" * ("latents" in missing)
        raise ValueError(f"{folder} has no column {missing[0]}; {make}{latents} makes it")
    if not len(columns["audio"]):
        raise ValueError(f"{folder} holds no rows; prepare the data with more of them for {split}")
    return columns


def check_or_write_config(folder: Path, config: TrainConfig, write: bool = True):
    """Write `config.json`, or check that the run there has this very config. Raises ValueError naming what differs."""
    path = folder / "config.json"
    values = config.to_dict()
    if path.is_file():
        old, new = flatten(read_json(path)), flatten(values)
        different = [
            f"{key} was {old.get(key)!r}, is {new.get(key)!r}"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        ]
        if different:
            raise ValueError(f"{folder} holds a run of another config ({'; '.join(different)}); choose another --out")
    elif write and jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, values)


def flatten(tree: dict, prefix: str = "") -> dict:
    """Nested keys as dotted ones."""
    flat = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


# --- what is trained, and towards what ------------------------------------------------------------------------------


def make_encoder(config: TrainConfig, dtype: jnp.dtype) -> nnx.Module:
    """A new encoder, or that of the folder `config.init`, which must have the same sizes (else ValueError)."""
    sizes = config.encoder_config
    if config.init:
        encoder = encoders.load(config.init, dtype=dtype)
        if type(encoder) is not encoders.ENCODERS[config.encoder] or encoder.config != sizes:
            there = f"{type(encoder).__name__} of {encoder.config}"
            raise ValueError(f"{config.init} holds {there}; the config asks for {config.encoder} of {sizes}")
        return encoder
    try:
        encoder = encoders.create(config.encoder, rngs=nnx.Rngs(config.seed), dtype=dtype, **sizes)
    except TypeError as error:
        raise ValueError(f"encoder_config {sizes} does not fit encoder {config.encoder!r}: {error}") from None
    return scale_start(encoder, branches=config.branch_init, positions=config.position_init)


def scale_start(encoder: nnx.Module, *, branches: float, positions: float) -> nnx.Module:
    """Scale the last kernel of every residual branch of a Transformer, and its position embeddings.

    Branches that start small leave post-norm layers near the identity, and so their gradients even, as in GPT-2.
    Positions that start small leave the sound to be seen.
    """
    graph, params = nnx.split(encoder)
    scales = {"self_attn.out_proj.kernel": branches, "linear2.kernel": branches, "pos_embed": positions}

    def scaled(path, value):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return value * math.prod(scale for ending, scale in scales.items() if name.endswith(ending))

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(scaled, nnx.as_pure(params)))


# --- the step -------------------------------------------------------------------------------------------------------


def replicated_rows(x: jax.Array) -> jax.Array:
    """`x` whole on every device, so that each compares its own rows with all of these."""
    return jax.lax.with_sharding_constraint(x, replicated_sharding())


def make_gradient(config: TrainConfig, graph, targets_graph) -> Callable:
    """`gradient(params, frozen, batch, key) -> ((loss, parts of it), gradients)` of the config's objective."""

    def encode(targets, params, rows, key):
        """Row by row: the pooled vector, the error of the hidden states, the denoising error of the first rows."""
        hidden = nnx.merge(graph, params["encoder"])(rows["audio"], rngs=key if config.dropout else None)
        outputs = {}
        if config.weights["contrastive"]:
            outputs["vector"] = pool_embeddings(hidden, targets.projection[...], config.audio_pooling)
        if config.weights["sequence"]:
            # Of all 77 rows: the U-Net attends to those behind the end of the text as well.
            outputs["sequence"] = jnp.mean(
                (hidden - targets.text_model(rows["tokens"]).hidden_states) ** 2, axis=(1, 2)
            )
        if config.weights["denoise"]:
            context = jax.lax.with_sharding_constraint(hidden[: len(rows["latents"])], batch_sharding())
            drawn = rows["latents"], context, rows["timesteps"], rows["noise"]
            outputs["denoise"], _ = denoising_errors_at(targets.unet, targets.schedule, *drawn)
        return outputs

    def combine(targets, params, outputs, batch):
        values = {}
        if config.weights["contrastive"]:
            text, image = (replicated_rows(batch[name].astype(jnp.float32)) for name in ("text", "image"))
            if config.text_pooling == "bos":
                text = jnp.broadcast_to(targets.bos[...], text.shape)
            scale = jnp.minimum(jnp.exp(params["log_scale"]), LARGEST_SCALE) if config.learned_temperature else 1.0
            compare = partial(cross_entropies, outputs["vector"], scale=scale, valid=batch["valid"])
            values["contrastive"] = (compare(text) + compare(image)) / 6  # arXiv 2509.09717, eq. 2
        if config.weights["sequence"]:
            values["sequence"] = jnp.mean(outputs["sequence"], where=batch["valid"])
        if config.weights["denoise"]:
            values["denoise"] = jnp.mean(outputs["denoise"])
        return sum(config.weights[name] * value for name, value in values.items()), values

    def gradient(params, frozen, batch, key):
        targets = nnx.merge(targets_graph, frozen)
        dropout_key, noise_key = jax.random.split(key)
        if config.weights["denoise"]:
            latents = batch["latents"][: denoised(config)].astype(jnp.float32)
            timesteps, noise = draw_noise(noise_key, latents, targets.schedule)
            batch = batch | {"latents": latents, "timesteps": timesteps, "noise": noise}
        pieces = partial(encode, targets), partial(combine, targets)
        return value_and_gradient(*pieces, config.accumulate)(params, batch, dropout_key)

    return gradient
