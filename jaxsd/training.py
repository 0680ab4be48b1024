"""Training an audio encoder: contrastive alignment with CLIP, denoising through the frozen U-Net, or both."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from ml_collections import ConfigDict

import encoders
from jaxsd.config import write_json
from jaxsd.data.columns import open_columns
from jaxsd.data.loader import Loader
from jaxsd.loop import fit, init_state, make_step
from jaxsd.objectives import cross_entropies, denoising_errors, pooled

FIRST_SCALE = 1 / 0.07  # CLIP's initial inverse temperature
LARGEST_SCALE = 100.0
EVALUATED = 512  # held-out rows that training is watched on


def train_encoder(config: ConfigDict, folder: Path, models, projection: jax.Array) -> nnx.Module:
    """Train as `config` says on the data in `config.data.folder`, into `folder`; the moving average of the encoder.

    `models` is the StableDiffusion whose frozen U-Net the denoising loss goes through; `projection` CLIP's text
    projection (width, projection). `folder` gets config.json, checkpoints, metrics.jsonl, encoder.json and
    model.safetensors. Raises ValueError where `folder` holds a run of another config.
    """
    folder = Path(folder)
    claim(folder, config)
    data = open_columns(Path(config.data.folder) / "train")
    held_out = open_columns(Path(config.data.folder) / "validation")

    encoder = encoders.create(config.encoder, rngs=nnx.Rngs(config.seed), **config.encoder_config)
    graph, params = nnx.split(encoder)
    params = {"encoder": nnx.as_pure(params), "scale": jnp.log(FIRST_SCALE)}
    frozen_graph, frozen = nnx.split(models.unet)
    frozen = {"unet": frozen, "projection": projection}

    def losses(params, frozen, batch, key, train: bool):
        dropout_key, noise_key = jax.random.split(key)
        audio = nnx.merge(graph, params["encoder"])
        rows = audio(batch["audio"], rngs=dropout_key if train and config.dropout else None)
        values = {}
        if config.weights.contrastive:
            scale = jnp.minimum(jnp.exp(params["scale"]), LARGEST_SCALE)
            vector = pooled(rows, frozen["projection"])
            text, image = (batch[name].astype(jnp.float32) for name in ("text", "image"))
            values["contrastive"] = (cross_entropies(vector, text, scale) + cross_entropies(vector, image, scale)) / 4
        if config.weights.denoise:
            unet = nnx.merge(frozen_graph, frozen["unet"])
            latents = batch["latents"].astype(jnp.float32)
            values["denoise"] = denoising_errors(unet, models.schedule, latents, rows, noise_key)[0].mean()
        total = sum(config.weights[name] * value for name, value in values.items())
        return total, values

    wanted = (
        ["audio"] + ["text", "image"] * bool(config.weights.contrastive) + ["latents"] * bool(config.weights.denoise)
    )
    loader = Loader(data, wanted, config.batch_size, config.seed)

    if config.warmup >= config.steps:
        raise ValueError(f"warmup is {config.warmup}; it must be less than steps, {config.steps}")
    schedule = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, config.warmup, config.steps)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    step = make_step(partial(losses, train=True), optimiser, config.seed)

    fixed = {name: jnp.asarray(held_out[name][:EVALUATED]) for name in wanted}
    validate = jax.jit(lambda p, f, b: losses(p, f, b, jax.random.key(0), train=False)[1])

    def evaluate(state):
        return {f"validation_{name}": value for name, value in validate(state.average, frozen, fixed).items()}

    state = fit(
        folder,
        f"train {folder.name}",
        init_state(params, optimiser),
        step,
        loader.batches,
        config.steps,
        frozen=frozen,
        save_every=config.save_every,
        evaluate=evaluate,
        eval_every=config.eval_every,
    )
    trained = nnx.merge(graph, state.average["encoder"])
    encoders.save(trained, folder)
    return trained


def claim(folder: Path, config: ConfigDict):
    """Write `config.json`, or check that the run there has this very config. Raises ValueError naming what differs."""
    path = folder / "config.json"
    new = flatten(json.loads(config.to_json()))
    if path.is_file():
        old = flatten(json.loads(path.read_text()))
        different = [
            f"{key} was {old.get(key)!r}, is {new.get(key)!r}"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key)
        ]
        if different:
            raise ValueError(f"{folder} holds a run of another config ({'; '.join(different)}); choose another --out")
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, json.loads(config.to_json()))


def flatten(tree: dict, prefix: str = "") -> dict:
    """Nested keys as dotted ones."""
    flat = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
