"""Train an audio encoder as a config says: towards CLIP's embeddings and hidden states, through the U-Net, or both."""

import math
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

import encoders
from encoders.layers import rematerialize
from jaxsd.clip.pooling import POOLINGS, TEXT_POOLINGS
from jaxsd.config import TrainConfig, one_of
from jaxsd.data.columns import METADATA, open_columns
from jaxsd.data.loader import Loader, shuffled
from jaxsd.pretrained.precision import choose_dtype
from jaxsd.runtime.bundled import load_maker
from jaxsd.runtime.files import lock_folder, read_json
from jaxsd.runtime.sharding import replicate
from jaxsd.training.frozen_models import FROM_DIFFUSION, load_models
from jaxsd.training.initialization import encoded_shape, make_encoder
from jaxsd.training.loop import TrainState, fit, init_state, make_step
from jaxsd.training.losses import loss_columns, make_gradient, make_losses
from jaxsd.training.metric_writers import import_wandb
from jaxsd.training.optimizers import OPTIMIZERS, SCHEDULES, make_optimizer
from jaxsd.training.run_config import check_run_config, check_run_data, identify_data, write_run_config
from jaxsd.training.samples import make_sampling
from jaxsd.training.validation import (
    VALIDATION_COLUMNS,
    explain_validation,
    make_validation,
    summarize_validation,
    validation_models,
)

TRAINING_DTYPES = ("auto", "float32", "bfloat16")
TRAINING_SPLITS = ("train", "validation")


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
    # All that can be refused is refused before data are made, models are fetched or a file is written.
    validate_config(config)
    longer = check_run_config(folder, config)
    if wandb:
        import_wandb()
    if config.data.maker:
        count_steps(config, config.data.train_size)
    dtype = choose_dtype(None if config.dtype == "auto" else config.dtype)
    encoder = make_encoder(config, dtype)
    encoders.describe_encoder(encoder, audio_pooling=config.audio_pooling)  # refuses what could not be saved
    metadata = _model_names(config)
    losses, columns = make_losses(config), loss_columns(config)
    if not config.data.maker:
        _open_splits(config, columns)
    names = {name for loss in losses.values() for name in loss.models} | set(validation_models(config))
    sampling = config.sample_images > 0 and bool(model or metadata.get("diffusion"))
    with_diffusion = sampling or bool(FROM_DIFFUSION & names)
    loaded = load_models(metadata, with_diffusion=with_diffusion, dtype=dtype, clip=clip, model=model)
    models = loaded.frozen(names)
    _check_encoded_shape(config, encoder, len(models.projection[...]))
    with lock_folder(folder) if jax.process_index() == 0 else nullcontext():
        make_data(config)
        data, held_out = _open_splits(config, columns)
        identity = _identify(config, columns)
        check_run_data(folder, config, identity)
        loader = Loader(data, columns, config.batch_size, config.seed, parts=config.accumulate)
        steps = count_steps(config, len(data["audio"]))
        if config.remat:
            rematerialize(encoder)
            rematerialize(models)

        graph, params = nnx.split(encoder)
        params = {"encoder": nnx.as_pure(params)}
        for loss in losses.values():
            params |= loss.init_params()
        models_graph, frozen = nnx.split(models)
        frozen = replicate(nnx.as_pure(frozen))
        optimizer = make_optimizer(config, steps)
        sample = None
        if sampling and loaded.diffusion:
            sample = make_sampling(graph, loaded.diffusion, np.asarray(held_out["audio"][: config.sample_images]))

        def trained(state: TrainState) -> nnx.Module:
            return nnx.merge(graph, state.average["encoder"])

        write_run_config(folder, config, identity)
        state = fit(
            folder,
            f"train {folder.name}",
            init_state(params, optimizer),
            make_step(make_gradient(config, graph, models_graph), optimizer, config.seed, config.average_decay),
            loader.batches,
            steps,
            frozen=frozen,
            save_every=config.save_every,
            export=lambda state: encoders.save(trained(state), folder, audio_pooling=config.audio_pooling),
            evaluate=make_validation(config, graph, models_graph, frozen, held_out),
            summarize=partial(summarize_validation, count=len(held_out["audio"])),
            sample=sample,
            eval_every=config.eval_every or loader.steps_per_epoch,
            note="\n".join(filter(None, (longer, explain_validation(config)))),
            wandb=wandb,
        )
    return trained(state)


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
    for key in (
        "epochs",
        "steps",
        "warmup",
        "eval_every",
        "sample_images",
        "weight_decay",
        "clip_norm",
        "learning_rate",
        "seed",
        "branch_init",
        "position_init",
    ):
        value = getattr(config, key)
        if value < 0:
            raise ValueError(f"{key} is {value}; it must not be negative")
        if not math.isfinite(value):
            raise ValueError(f"{key} is {value}; it must be finite")
    if config.weight_decay and config.optimizer != "adamw":
        raise ValueError(f"weight_decay is {config.weight_decay}, which needs --config.optimizer=adamw")
    if not 0 <= config.average_decay < 1:
        raise ValueError(f"average_decay is {config.average_decay}; allowed: 0 to below 1")
    if not 0 <= config.denoise_batch <= config.batch_size:
        raise ValueError(f"denoise_batch is {config.denoise_batch}; allowed: 0 to batch_size, {config.batch_size}")
    for key in ("train_size", "held_out"):
        if config.data.maker and getattr(config.data, key) < 1:
            raise ValueError(f"data.{key} is {getattr(config.data, key)}; it must be at least 1")
    make_losses(config)
    if config.steps and config.warmup >= config.steps:
        raise ValueError(f"warmup is {config.warmup}; it must be less than the steps of training, {config.steps}")


def count_steps(config: TrainConfig, examples: int) -> int:
    """The steps of a training on so many examples. Raises ValueError where these fill no batch, or warm-up is all."""
    shuffled(examples, config.batch_size, config.seed)
    steps = config.steps or config.epochs * (examples // config.batch_size)
    if config.warmup >= steps:
        raise ValueError(f"warmup is {config.warmup}; it must be less than the steps of training, {steps}")
    return steps


def make_data(config: TrainConfig):
    """Make the splits that are missing, where the config says what makes them."""
    if config.data.maker:
        maker = load_maker(config.data.maker)
        for split, size in (("train", config.data.train_size), ("validation", config.data.held_out)):
            maker.make_split(Path(config.data.folder) / split, split, size)


def next_commands(config: TrainConfig, folder: str | Path, program: str = "python {}.py") -> list[str]:
    """The commands that draw and evaluate what the encoder of a run makes of sounds.

    `program` makes a command's program from its name: "python {}.py", or "jaxsd {}".
    """
    model = _model_names(config).get("diffusion") or "MODEL"
    trust = " --trust-code" * config.own_encoder
    options = f"--encoder {folder}" + f" --model {model}" * (model != "toy") + trust
    data = f" --data {config.data.folder}" * (config.data.folder != "data/toy")
    return [
        f"{program.format('generate')} --audio dog.wav {options}",
        f"{program.format('eval')} {folder}{data}{trust}",
    ]


def _model_names(config: TrainConfig) -> dict[str, Any]:
    """The dataset.json that names the models of the data: that of the data, or what the maker will write there."""
    path = Path(config.data.folder) / "train" / METADATA
    if config.data.maker and not path.is_file():
        return load_maker(config.data.maker).MODELS
    _check_there(config, "train")
    return read_json(path)


def _check_there(config: TrainConfig, split: str):
    folder = Path(config.data.folder) / split
    if not (folder / METADATA).is_file():
        raise FileNotFoundError(f"{folder} holds no data; {_prepare_command(config)} makes it")


def _prepare_command(config: TrainConfig) -> str:
    return f"python -m jaxsd.data prepare MANIFEST --out {config.data.folder}"


def _open_splits(config: TrainConfig, columns: list[str]) -> list[dict[str, np.ndarray]]:
    """The columns of the splits to train and to validate on.

    Raises FileNotFoundError or ValueError that say how to make what is missing.
    """
    opened = []
    for split in TRAINING_SPLITS:
        folder = Path(config.data.folder) / split
        _check_there(config, split)
        found = open_columns(folder)
        if missing := [name for name in (*columns, *VALIDATION_COLUMNS) if name not in found]:
            latents = " --latents" * ("latents" in missing)
            raise ValueError(f"{folder} has no column {missing[0]}; {_prepare_command(config)}{latents} makes it")
        if not len(found["audio"]):
            raise ValueError(f"{folder} holds no examples; prepare the data with more of them for {split}")
        opened.append(found)
    return opened


def _identify(config: TrainConfig, columns: list[str]) -> dict[str, Any]:
    metadata = {split: read_json(Path(config.data.folder) / split / METADATA) for split in TRAINING_SPLITS}
    return identify_data(metadata, sorted({*columns, *VALIDATION_COLUMNS}))


def _check_encoded_shape(config: TrainConfig, encoder: nnx.Module, width: int):
    """Raise ValueError where an encoder's output is not of the shape of CLIP's hidden states."""
    if (shape := encoded_shape(encoder)) != (77, width):
        mend = f"; set --config.encoder_config.width={width}" if "width" in config.encoder_config else ""
        raise ValueError(
            f"encoder {config.encoder} makes {shape} of a clip, but the hidden states of the data's CLIP are "
            f"(77, {width}){mend}"
        )
