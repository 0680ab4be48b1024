"""Train a LoRA of the U-Net by its denoising loss, conditioned on captions or on sounds."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, PyTree

import encoders
from encoders.layers import rematerialize
from jaxsd.config import LoRAConfig, one_of
from jaxsd.data.columns import METADATA
from jaxsd.data.loader import Loader
from jaxsd.diffusion.denoising import denoising_errors
from jaxsd.diffusion.lora import LORA_FILES, LoRA
from jaxsd.diffusion.lora_saving import LORA_NAMES, write_lora
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.pretrained.precision import choose_dtype
from jaxsd.runtime.files import lock_folder
from jaxsd.runtime.sharding import replicate, replicated_sharding
from jaxsd.training.curves import VALIDATION
from jaxsd.training.frozen_models import FrozenModels, load_models
from jaxsd.training.initialization import check_encoded_shape
from jaxsd.training.loop import TrainState, fit, init_state, make_step
from jaxsd.training.lora_layers import LAYERS, init_lora, lora_factors, with_low_rank
from jaxsd.training.losses import DenoisingLoss, gradient_of_losses
from jaxsd.training.metric_writers import import_wandb
from jaxsd.training.optimizers import make_optimizer
from jaxsd.training.run_config import check_run_config, check_run_data, validate_run_config, write_run_config
from jaxsd.training.run_data import count_steps, identify_splits, make_data, model_names, open_split
from jaxsd.training.validation import VALIDATION_BATCH, map_examples

PLAIN = "denoise_plain"  # the figure of the model without the LoRA


def train_lora(
    config: LoRAConfig,
    folder: str | Path,
    *,
    wandb: bool = False,
    clip: str | None = None,
    model: str | None = None,
) -> LoRA:
    """Train a LoRA on the data set in `config.data.folder`, or go on with a training that was stopped.

    Where the data have no validation split, nothing is validated, and the samples are of what is trained on.

    Args:
        config: says what is trained, on what and how.
        folder: of the run. It gets config.json, what `jaxsd.training.loop.fit` leaves, and
            pytorch_lora_weights.safetensors, which `--lora` and diffusers read.
        wandb: whether to log to Weights & Biases too.
        clip: a CLIP in place of the one that the data set names: a folder or a Hugging Face repository.
        model: a Stable Diffusion in place of the one that the data set names.

    Returns:
        The trained LoRA: the moving average of the parameters, if the config asks for one.

    Raises:
        ValueError, FileNotFoundError: the config, the data and the models do not fit each other, or `folder` holds a
            run of another config. Nothing is written then.
        Other errors are those of `jaxsd.training.loop.fit`.
    """
    folder = Path(folder)
    # All that can be refused is refused before data are made, models are fetched or a file is written.
    validate_lora_config(config)
    longer = check_run_config(folder, config)
    if wandb:
        import_wandb()
    metadata = model_names(config)
    dtype = choose_dtype(None if config.dtype == "auto" else config.dtype)
    loss = DenoisingLoss(config)
    conditioned = "audio" if config.encoder else "tokens"
    columns = [*loss.columns, conditioned]
    if not config.data.maker:
        open_split(config, "train", columns)
    encoder = encoders.load(config.encoder, dtype=dtype) if config.encoder else None
    loaded = load_models(metadata, with_diffusion=True, dtype=dtype, clip=clip, model=model)
    models = loaded.frozen({*loss.models, *(() if encoder else ("text_model",))})
    if encoder:
        check_encoded_shape(config.encoder, encoder, len(models.projection[...]))
        models = models.replace(audio_encoder=encoder)
    pipe = loaded.diffusion
    assert pipe  # with_diffusion
    with lock_folder(folder) if jax.process_index() == 0 else nullcontext():
        make_data(config)
        splits = ["train"] + ["validation"] * (Path(config.data.folder) / "validation" / METADATA).is_file()
        data, *held_out = (open_split(config, split, columns) for split in splits)
        identity = identify_splits(config, splits, columns)
        check_run_data(folder, config, identity)
        loader = Loader(data, columns, config.batch_size, config.seed, parts=config.accumulate)
        steps = count_steps(config, len(data["latents"]))
        if config.remat:
            rematerialize(models)
        params = {"lora": init_lora(config, models.unet)}
        models_graph, frozen = nnx.split(models)
        frozen = replicate(nnx.as_pure(frozen))
        optimizer = make_optimizer(config, steps)

        def condition(models: FrozenModels, params: PyTree, examples: Mapping[str, jax.Array], _):
            models = models.replace(unet=with_low_rank(models.unet, params["lora"]))
            return models, _context_of(models, examples[conditioned])

        gradient = gradient_of_losses({"denoise": loss}, {"denoise": 1.0}, condition, models_graph, config.accumulate)
        shown = (held_out or [data])[0]
        sample = None
        if config.sample_images:
            context = _context_of(models, jnp.asarray(shown[conditioned][: config.sample_images]))
            sample = partial(_sample, pipe, context)
        write_run_config(folder, config, identity)
        state = fit(
            folder,
            f"train {folder.name}",
            init_state(params, optimizer),
            make_step(gradient, optimizer, config.seed, config.average_decay),
            loader.batches,
            steps,
            frozen=frozen,
            save_every=config.save_every,
            export=lambda state: write_lora(
                _trained(state), folder / LORA_FILES[0], names=config.names, title=folder.name
            ),
            evaluate=_make_validation(config, models_graph, frozen, conditioned, *held_out),
            summarize=_summarize if held_out else lambda figures: "",
            sample=sample,
            eval_every=config.eval_every or loader.steps_per_epoch,
            note=longer,
            wandb=wandb,
        )
    return _trained(state)


def validate_lora_config(config: LoRAConfig):
    """Raise ValueError, in one sentence, for values that no training of a LoRA can have."""
    one_of("layers", config.layers, LAYERS)
    one_of("names", config.names, LORA_NAMES)
    if config.rank < 1:
        raise ValueError(f"rank is {config.rank}; it must be at least 1")
    validate_run_config(config)
    DenoisingLoss(config)


def next_lora_command(config: LoRAConfig, folder: str | Path, program: str = "python {}.py") -> str:
    """The command that draws with the LoRA of a run; `program` is that of `train.next_commands`."""
    model = model_names(config).get("diffusion") or "MODEL"
    what = f"--audio dog.wav --encoder {config.encoder}" if config.encoder else "--text CAPTION"
    return f"{program.format('generate')} {what} --model {model} --lora {folder}"


def _context_of(models: FrozenModels, examples: jax.Array) -> Float[jax.Array, "batch 77 width"]:
    """What the U-Net attends to: of sounds where there is an encoder of them, else of captions' tokens."""
    if hasattr(models, "audio_encoder"):
        return models.audio_encoder(examples)
    return models.text_model(examples).hidden_states


def _trained(state: TrainState) -> LoRA:
    return LoRA({"unet": lora_factors(jax.device_get(state.average["lora"]))})


def _sample(
    pipe: StableDiffusion, context: Float[jax.Array, "count 77 features"], state: TrainState
) -> Float[np.ndarray, "count height width 3"]:
    """The images of the same conditioning from the same noise, with the LoRA so far."""
    pipe.loras["trained"] = _trained(state)
    return np.asarray(pipe(context, key=jax.random.key(0)))


def _make_validation(
    config: LoRAConfig,
    models_graph: nnx.GraphDef,
    frozen: PyTree,
    conditioned: str,
    data: Mapping[str, np.ndarray] | None = None,
) -> Callable[[TrainState], dict[str, float]]:
    """The function that gives the held-out denoising loss with the LoRA and, with the same noise, without it."""

    @partial(jax.jit, out_shardings=replicated_sharding())
    def errors(params, frozen, batch, key):
        models = nnx.merge(models_graph, frozen)
        unet = with_low_rank(models.unet, params)
        context = _context_of(models, batch[conditioned])
        return denoising_errors(unet, models.schedule, batch["latents"].astype(jnp.float32), context, key)[0]

    plain: dict[str, float] = {}  # does not depend on the LoRA, and is computed once

    def evaluate(state: TrainState) -> dict[str, float]:
        if data is None:
            return {}
        size = min(config.batch_size, VALIDATION_BATCH, len(data["latents"]))
        compute = partial(map_examples, data=data, names=["latents", conditioned], batch_size=size)
        if not plain:
            nothing = jax.tree.map(jnp.zeros_like, state.average["lora"])  # and not {}, which would compile anew
            plain[f"{VALIDATION}{PLAIN}"] = float(compute(partial(errors, nothing, frozen)).mean())
        return {f"{VALIDATION}denoise": float(compute(partial(errors, state.average["lora"], frozen)).mean())} | plain

    return evaluate


def _summarize(figures: Mapping[str, float]) -> str:
    """A line of the figures of a validation."""
    with_it, without = (figures[f"{VALIDATION}{name}"] for name in ("denoise", PLAIN))
    return f"held-out denoising loss {with_it:.4f} (without the LoRA {without:.4f})"
