"""Train an audio encoder as a config says: towards CLIP's embeddings and hidden states, through the U-Net, or both."""

from functools import partial
from pathlib import Path

import jax
import numpy as np
from flax import nnx

import encoders
from encoders.layers import rematerialize
from jaxsd.bundled import load_maker
from jaxsd.clip.pooling import POOLINGS, TEXT_POOLINGS
from jaxsd.config import TrainConfig, one_of
from jaxsd.data.columns import METADATA, open_columns
from jaxsd.data.loader import Loader
from jaxsd.files import read_json
from jaxsd.pretrained.precision import choose_dtype
from jaxsd.sharding import replicate
from jaxsd.training.frozen_models import load_frozen_models
from jaxsd.training.initialization import encoded_shape, make_encoder
from jaxsd.training.loop import fit, init_state, make_step
from jaxsd.training.losses import loss_columns, make_gradient, make_losses
from jaxsd.training.optimizers import OPTIMIZERS, SCHEDULES, make_optimizer
from jaxsd.training.run_config import check_run_config, write_run_config
from jaxsd.training.validation import VALIDATION_COLUMNS, make_validation, summarize_validation, validation_models

TRAINING_DTYPES = ("auto", "float32", "bfloat16")


def train(
    config: TrainConfig,
    folder: str | Path,
    *,
    wandb: bool = False,
    clip: str | None = None,
    model: str | None = None,
) -> nnx.Module:
    """Train an encoder on the data set in `config.data.folder`, or go on with a training that was stopped.

    Args:
        config: says what is trained, on what and how.
        folder: of the run. It gets config.json, what `jaxsd.training.loop.fit` leaves, encoder.json and
            model.safetensors.
        wandb: whether to log to Weights & Biases too.
        clip: a CLIP in place of the one that the data set names: a folder or a Hugging Face repository.
        model: a Stable Diffusion in place of the one that the data set names.

    Returns:
        The trained encoder: the moving average of the parameters, if the config asks for one.

    Raises:
        ValueError, FileNotFoundError: the config, the data and the models do not fit each other, or `folder` holds a
            run of another config. Nothing is written then.
        Other errors are those of `jaxsd.training.loop.fit`.
    """
    folder = Path(folder)
    validate_config(config)
    check_run_config(folder, config)
    make_data(config)

    losses, columns = make_losses(config), loss_columns(config)
    data, held_out = (open_training_split(config, split, columns) for split in ("train", "validation"))
    loader = Loader(data, columns, config.batch_size, config.seed, parts=config.accumulate)
    steps = config.steps or config.epochs * loader.steps_per_epoch
    _check_warmup(config, steps)
    dtype = choose_dtype(None if config.dtype == "auto" else config.dtype)
    encoder = make_encoder(config, dtype)
    encoders.describe_encoder(encoder, audio_pooling=config.audio_pooling)  # refuses what could not be saved
    dataset = read_json(Path(config.data.folder) / "train" / METADATA)
    names = {name for loss in losses.values() for name in loss.models} | set(validation_models(config))
    models = load_frozen_models(dataset, names, dtype=dtype, clip=clip, diffusion=model)
    _check_encoded_shape(config, encoder, len(models.projection[...]))
    if config.remat:
        rematerialize(encoder)
        rematerialize(models)
    write_run_config(folder, config)

    graph, params = nnx.split(encoder)
    params = {"encoder": nnx.as_pure(params)}
    for loss in losses.values():
        params |= loss.init_params()
    models_graph, frozen = nnx.split(models)
    frozen = replicate(nnx.as_pure(frozen))
    optimizer = make_optimizer(config, steps)
    gradient = make_gradient(config, graph, models_graph)
    state = fit(
        folder,
        f"train {folder.name}",
        init_state(params, optimizer),
        make_step(gradient, optimizer, config.seed, average_decay=config.average_decay),
        loader.batches,
        steps,
        frozen=frozen,
        save_every=config.save_every,
        evaluate=make_validation(config, graph, models_graph, frozen, held_out),
        summarize=partial(summarize_validation, count=len(held_out["audio"])),
        eval_every=config.eval_every or loader.steps_per_epoch,
        wandb=wandb,
    )
    trained = nnx.merge(graph, state.average["encoder"])
    if jax.process_index() == 0:
        encoders.save(trained, folder, audio_pooling=config.audio_pooling)
    return trained


def validate_config(config: TrainConfig):
    """Raise ValueError, in one sentence, for values that no training can have."""
    if not config.own_encoder:
        one_of("encoder", config.encoder, encoders.ENCODERS)
    one_of("text_pooling", config.text_pooling, TEXT_POOLINGS)
    one_of("audio_pooling", config.audio_pooling, POOLINGS)
    one_of("optimizer", config.optimizer, OPTIMIZERS)
    one_of("schedule", config.schedule, SCHEDULES)
    one_of("dtype", config.dtype, TRAINING_DTYPES)
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
    if not 0 <= config.denoise_batch <= config.batch_size:
        raise ValueError(f"denoise_batch is {config.denoise_batch}; allowed: 0 to batch_size, {config.batch_size}")
    make_losses(config)
    if config.steps:
        _check_warmup(config, config.steps)


def make_data(config: TrainConfig):
    """Make the splits that are missing, where the config says what makes them."""
    if config.data.maker:
        maker = load_maker(config.data.maker)
        for split, size in (("train", config.data.train_size), ("validation", config.data.held_out)):
            maker.make_split(Path(config.data.folder) / split, split, size)


def open_training_split(config: TrainConfig, split: str, columns: list[str]) -> dict[str, np.ndarray]:
    """The columns of a split. Raises FileNotFoundError or ValueError that say how to make what is missing."""
    folder = Path(config.data.folder) / split
    make = f"python -m jaxsd.data prepare MANIFEST --out {config.data.folder}"
    if not (folder / METADATA).is_file():
        raise FileNotFoundError(f"{folder} holds no data; {make} makes it")
    found = open_columns(folder)
    if missing := [name for name in (*columns, *VALIDATION_COLUMNS) if name not in found]:
        latents = " --latents" * ("latents" in missing)
        raise ValueError(f"{folder} has no column {missing[0]}; {make}{latents} makes it")
    if not len(found["audio"]):
        raise ValueError(f"{folder} holds no examples; prepare the data with more of them for {split}")
    return found


def _check_warmup(config: TrainConfig, steps: int):
    if config.warmup >= steps:
        raise ValueError(f"warmup is {config.warmup}; it must be less than the steps of training, {steps}")


def _check_encoded_shape(config: TrainConfig, encoder: nnx.Module, width: int):
    """Raise ValueError where an encoder's output is not of the shape of CLIP's hidden states."""
    if (shape := encoded_shape(encoder)) != (77, width):
        mend = f"; set --config.encoder_config.width={width}" if "width" in config.encoder_config else ""
        raise ValueError(
            f"encoder {config.encoder} makes {shape} of a clip, but the hidden states of the data's CLIP are "
            f"(77, {width}){mend}"
        )
