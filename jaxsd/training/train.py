"""Train an audio encoder as a config says: towards CLIP's embeddings and hidden states, through the U-Net, or both."""

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import jax
import numpy as np
from flax import nnx

import encoders
from encoders.layers import rematerialize
from jaxsd.clip.pooling import POOLINGS, TEXT_POOLINGS
from jaxsd.config import TrainConfig, one_of
from jaxsd.data.loader import Loader
from jaxsd.pretrained.precision import choose_dtype
from jaxsd.runtime.files import lock_folder
from jaxsd.runtime.sharding import replicate
from jaxsd.training.frozen_models import FROM_DIFFUSION, load_models
from jaxsd.training.initialization import check_encoded_shape, make_encoder
from jaxsd.training.loop import TrainState, fit, init_state, make_step
from jaxsd.training.losses import loss_columns, make_gradient, make_losses
from jaxsd.training.metric_writers import import_wandb
from jaxsd.training.optimizers import make_optimizer
from jaxsd.training.run_config import (
    check_not_negative,
    check_run_config,
    check_run_data,
    validate_run_config,
    write_run_config,
)
from jaxsd.training.run_data import count_steps, identify_splits, make_data, model_names, open_split
from jaxsd.training.samples import make_sampling
from jaxsd.training.validation import (
    VALIDATION_COLUMNS,
    explain_validation,
    make_validation,
    summarize_validation,
    validation_models,
)

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
    metadata = model_names(config)
    losses, columns = make_losses(config), loss_columns(config)
    if not config.data.maker:
        _open_splits(config, columns)
    dtype = choose_dtype(None if config.dtype == "auto" else config.dtype)
    encoder = make_encoder(config, dtype)
    encoders.describe_encoder(encoder, audio_pooling=config.audio_pooling)  # refuses what could not be saved
    names = {name for loss in losses.values() for name in loss.models} | set(validation_models(config))
    sampling = config.sample_images > 0 and bool(model or metadata.get("diffusion"))
    with_diffusion = sampling or bool(FROM_DIFFUSION & names)
    loaded = load_models(metadata, with_diffusion=with_diffusion, dtype=dtype, clip=clip, model=model)
    models = loaded.frozen(names)
    _check_encoded_shape(config, encoder, len(models.projection[...]))
    with lock_folder(folder) if jax.process_index() == 0 else nullcontext():
        make_data(config)
        data, held_out = _open_splits(config, columns)
        identity = identify_splits(config, TRAINING_SPLITS, [*{*columns, *VALIDATION_COLUMNS}])
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
    """Raise ValueError, in one sentence, for values that no training of an encoder can have."""
    if not config.own_encoder:
        one_of("encoder", config.encoder, encoders.ENCODERS)
    one_of("text_pooling", config.text_pooling, TEXT_POOLINGS)
    one_of("audio_pooling", config.audio_pooling, POOLINGS)
    validate_run_config(config)
    check_not_negative(config, ("branch_init", "position_init"))
    if not 0 <= config.denoise_batch <= config.batch_size:
        raise ValueError(f"denoise_batch is {config.denoise_batch}; allowed: 0 to batch_size, {config.batch_size}")
    make_losses(config)


def next_commands(config: TrainConfig, folder: str | Path, program: str = "python {}.py") -> list[str]:
    """The commands that draw and evaluate what the encoder of a run makes of sounds.

    `program` makes a command's program from its name: "python {}.py", or "jaxsd {}".
    """
    model = model_names(config).get("diffusion") or "MODEL"
    trust = " --trust-code" * config.own_encoder
    options = f"--encoder {folder}" + f" --model {model}" * (model != "toy") + trust
    data = f" --data {config.data.folder}" * (config.data.folder != "data/toy")
    return [
        f"{program.format('generate')} --audio dog.wav {options}",
        f"{program.format('eval')} {folder}{data}{trust}",
    ]


def _open_splits(config: TrainConfig, columns: list[str]) -> list[dict[str, np.ndarray]]:
    """The columns of the splits to train and to validate on."""
    return [open_split(config, split, [*columns, *VALIDATION_COLUMNS]) for split in TRAINING_SPLITS]


def _check_encoded_shape(config: TrainConfig, encoder: nnx.Module, width: int):
    """Raise ValueError where an encoder's output is not of the shape of CLIP's hidden states."""
    mend = f"; set --config.encoder_config.width={width}" if "width" in config.encoder_config else ""
    check_encoded_shape(config.encoder, encoder, width, mend)
