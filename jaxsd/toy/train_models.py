"""Trains the toy world's models from a seed, one stage after the other. Each stage resumes where it stopped.

The stages share one folder. Arrays such as `images.npy` are made once. A stage keeps its checkpoints in a subfolder
of its own. A finished stage has left `<stage>.safetensors`: the moving average of the parameters.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, PyTree

import encoders
from jaxsd.clip.pipeline import CLIP, Preprocessing
from jaxsd.clip.tokens import tokenize
from jaxsd.clip.towers import CLIPModel, TextConfig, TextModel, VisionConfig
from jaxsd.config import load_config
from jaxsd.data.features import to_float
from jaxsd.data.loader import shuffled
from jaxsd.diffusion.denoising import denoising_errors
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.diffusion.samplers import NoiseSchedule
from jaxsd.diffusion.sampling_defaults import SamplingDefaults
from jaxsd.diffusion.unet import UNet, UNetConfig
from jaxsd.diffusion.vae import VAE, VAEConfig
from jaxsd.generation.hearing import write_captions
from jaxsd.pretrained.weights import read_parameters, write_parameters
from jaxsd.runtime.files import check_output_folder, lock_folder, replacing
from jaxsd.runtime.sharding import map_batches
from jaxsd.toy import world
from jaxsd.toy.judge import Judge, true_answers
from jaxsd.toy.maker import make_split
from jaxsd.toy.tokenizer import make_tokenizer
from jaxsd.training.loop import fit, init_state, make_step
from jaxsd.training.optimizers import SCHEDULES, muon
from jaxsd.training.train import train

TRAIN_SCENES = 30_000
ENCODED_TOGETHER = 250  # images or texts
# Of the stages on two idle CPU cores, as docs/toy-world.md has them.
STAGE_MINUTES = {"vae": 33, "judge": 3, "clip": 11, "unet": 36}
ENCODER_MINUTES = 9
VAE_STEPS, CLIP_STEPS, UNET_STEPS = 12_000, 1_500, 6_000

VAE_CONFIG = VAEConfig(
    block_out_channels=(16, 16, 32, 64), layers_per_block=1, latent_channels=16, norm_num_groups=8, scaling_factor=1.0
)
UNET_CONFIG = UNetConfig(
    sample_size=8,
    in_channels=16,
    out_channels=16,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    block_out_channels=(96, 96),
    layers_per_block=1,
    cross_attention_dim=128,
    attention_head_dim=4,
    norm_num_groups=16,
)
TEXT: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION_CONFIG = VisionConfig(
    hidden_size=128, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4, image_size=64, patch_size=8
)
PROJECTION = 128

Trained = TypeVar("Trained", bound=nnx.Module)


def run_stage(
    folder: Path,
    name: str,
    model: Trained,
    loss: Callable,
    batch: Callable[[int], PyTree],
    steps: int,
    peak: float,
    seed: int,
    **options,
) -> Trained:
    """Train a model, unless the stage is finished.

    Args:
        folder: the folder that all stages share.
        name: the name of the stage, its checkpoints and its file.
        model: the model as it starts.
        loss: `loss(model, batch, key)` gives the loss and a dictionary of its parts.
        batch: `batch(step)` gives the batch of that step.
        steps: how many steps to train.
        peak: the highest learning rate of the cosine schedule.
        seed: of all that is random in the steps.
        **options: further arguments of `jaxsd.training.loop.fit`.

    Returns:
        A model of the same type that holds the moving average of the parameters.
    """
    graph, params = nnx.split(model)
    params = nnx.as_pure(params)
    path = folder / f"{name}.safetensors"
    if not path.exists():
        schedule = SCHEDULES["cosine"](peak, min(200, steps // 10), steps)
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), muon(schedule))
        gradient = jax.value_and_grad(lambda p, _, b, k: loss(nnx.merge(graph, p), b, k), has_aux=True)
        step = make_step(gradient, optimizer, seed)
        state = init_state(params, optimizer)
        state = fit(folder / name, name, state, step, lambda first: map(batch, count(first)), steps, **options)
        write_parameters(nnx.merge(graph, state.average), path, np.float32)
    return read_parameters(model, path)


def cached(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in the file `path`, which `make` makes where the file is missing."""
    if not path.exists():
        with replacing(path) as part:
            np.save(part, make())
    return np.load(path)


def vae_loss(vae: VAE, images, key):
    x = to_float(images)
    latents = vae.encode(x)
    error = vae.decode(latents.sample(key)) - x
    mse = jnp.mean(error**2)
    kl = latents.kl().mean()
    return jnp.abs(error).mean() + mse + 2e-6 * kl, {"mse": mse, "kl": kl}


def train_vae(folder: Path, images: np.ndarray, seed: int) -> VAE:
    batch = shuffled(len(images), 8, seed)
    vae = VAE(VAE_CONFIG, rngs=nnx.Rngs(seed))
    return run_stage(folder, "vae", vae, vae_loss, lambda i: images[batch(i)], VAE_STEPS, 2e-3, seed)


def judge_loss(judge: Judge, batch, key):
    images, answers = batch
    logits = judge(blurred(to_float(images), key))
    losses = {
        name: optax.softmax_cross_entropy_with_integer_labels(logits[name], answers[name]).mean() for name in logits
    }
    return sum(losses.values()), losses


def blurred(images: Float[Array, "n height width 3"], key: jax.Array) -> Float[Array, "n height width 3"]:
    """Images with a random 3x3 blur and noise, so that the judge does not rely on crisp edges."""
    blur, level, noise = jax.random.split(key, 3)
    share = jax.random.uniform(blur, (len(images), 1, 1, 1)) / 3
    for axis in (1, 2):
        sides = jnp.roll(images, 1, axis) + jnp.roll(images, -1, axis)
        images = (1 - 2 * share) * images + share * sides
    amount = 0.1 * jax.random.uniform(level, (len(images), 1, 1, 1))
    return images + amount * jax.random.normal(noise, images.shape)


def train_judge(folder: Path, images: np.ndarray, scenes, seed: int) -> Judge:
    batch = shuffled(len(images), 64, seed + 1)
    answers = true_answers(scenes)

    def take(i):
        chosen = batch(i)
        return images[chosen], jax.tree.map(lambda x: x[chosen], answers)

    judge = Judge(rngs=nnx.Rngs(seed + 1))
    return run_stage(folder, "judge", judge, judge_loss, take, 1_500, 2e-3, seed + 1)


def clip_loss(clip: CLIPModel, batch, key):
    """CLIP's symmetric cross-entropy over the batch."""
    images, tokens = batch
    text, image = clip.embed_text(tokens), clip.embed_image(to_float(images))
    logits = jnp.exp(jnp.minimum(clip.logit_scale[...], jnp.log(100.0))) * text @ image.T
    diagonal = jnp.arange(len(logits))
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    loss = (cross_entropy(logits, diagonal).mean() + cross_entropy(logits.T, diagonal).mean()) / 2
    return loss, {"accuracy": jnp.mean(logits.argmax(axis=1) == diagonal)}


def train_clip(folder: Path, images: np.ndarray, tokens: np.ndarray, text: TextConfig, seed: int) -> CLIPModel:
    batch = shuffled(len(images), 128, seed + 2)
    # The text tower is causal: tokens after the end of the text change nothing, so they are left out.
    short = tokens[:, : int((tokens == text.eos_token_id).argmax(axis=1).max()) + 1]

    def take(i):
        chosen = batch(i)
        return images[chosen], short[chosen]

    clip = CLIPModel(text, VISION_CONFIG, PROJECTION, rngs=nnx.Rngs(seed + 2))
    return run_stage(folder, "clip", clip, clip_loss, take, CLIP_STEPS, 2e-3, seed + 2)


def unet_loss(unet: UNet, batch, key):
    """The denoising loss with low noise weighted down (min-SNR, arXiv 2303.09556, gamma 5)."""
    latents, context = batch
    errors, ratio = denoising_errors(unet, NoiseSchedule(), latents, context, key)
    return jnp.mean(jnp.minimum(5.0 / ratio, 1.0) * errors), {"mse": errors.mean()}


def train_unet(folder: Path, latents: np.ndarray, contexts: np.ndarray, which: np.ndarray, seed: int) -> UNet:
    """`contexts[which[i]]` is the text of `latents[i]`; `contexts[0]`, the empty one, stands in for a tenth."""
    batch = shuffled(len(latents), 32, seed + 3)

    def take(i):
        chosen = batch(i)
        dropped = np.random.default_rng([seed, i]).random(len(chosen)) < 0.1
        return latents[chosen], contexts[np.where(dropped, 0, which[chosen])]

    unet = UNet(UNET_CONFIG, rngs=nnx.Rngs(seed + 3))
    return run_stage(folder, "unet", unet, unet_loss, take, UNET_STEPS, 4e-3, seed + 3, save_every=1_000)


def encode_latents(vae: VAE, images: np.ndarray) -> np.ndarray:
    """The mean latents of uint8 images (n, height, width, 3), float32, unscaled."""
    encode = nnx.jit(lambda vae, x: vae.encode(to_float(x)).mean)
    return map_batches(lambda x: encode(vae, x), images, ENCODED_TOGETHER)


def encode_texts(text_model: TextModel, tokens: np.ndarray) -> np.ndarray:
    """The hidden states of token ids, float16 (n, 77, width)."""
    encode = nnx.jit(lambda model, x: model(x).hidden_states.astype(jnp.float16))
    return map_batches(lambda x: encode(text_model, x), tokens, ENCODED_TOGETHER)


def train_models(folder: Path, seed: int = 0, *, dry_run: bool = False) -> Path | None:
    """Train the VAE, the judge, CLIP, the U-Net and the encoders in `folder`, or those that are not finished.

    Returns `folder/bundle`, which is laid out as the package ships it; None of a dry run, which only says what would be
    trained. Raises ValueError where another process fills `folder`.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed}; allowed: 0 to {2**32 - 1}")
    check_output_folder(folder)
    print(_announce_stages(folder), flush=True)
    if dry_run:
        return None
    with lock_folder(folder):
        return _train_models(folder, seed)


def _announce_stages(folder: Path) -> str:
    """Which stages are to do, and how long they take."""
    minutes = {name: time for name, time in STAGE_MINUTES.items() if not (folder / f"{name}.safetensors").exists()}
    left = [name for name in encoders.ENCODERS if not (folder / "bundle" / "encoders" / name / "encoder.json").exists()]
    minutes |= dict.fromkeys(left, ENCODER_MINUTES)
    stages = ", ".join(minutes) or "nothing"
    return f"to train: {stages}\nabout {sum(minutes.values()) / 60:.1f} hours on two CPU cores"


def _train_models(folder: Path, seed: int) -> Path:
    scenes = world.scenes("train", TRAIN_SCENES, seed)
    captions = world.captions("train", TRAIN_SCENES, seed)
    images = cached(folder / "images.npy", lambda: world.images(scenes))

    tokenizer: Any = make_tokenizer(captions)
    tokenizer.save_pretrained(folder / "tokenizer")
    text = TextConfig(**TEXT, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    texts, which = np.unique(["", *captions], return_inverse=True)
    tokens = tokenize(tokenizer, list(texts))
    which = which[1:]

    vae = train_vae(folder, images, seed)
    judge = train_judge(folder, images, scenes, seed)
    clip = train_clip(folder, images, tokens[which], text, seed)
    latents = cached(folder / "latents.npy", lambda: encode_latents(vae, images))
    vae.config = replace(vae.config, scaling_factor=round(float(1 / latents.std()), 5))
    latents = latents * np.float32(vae.config.scaling_factor)
    contexts = cached(folder / "contexts.npy", lambda: encode_texts(clip.text_model, tokens))
    unet = train_unet(folder, latents, contexts, which, seed)

    bundle = folder / "bundle"
    pipe = StableDiffusion(
        unet,
        vae,
        clip.text_model,
        folder / "tokenizer",
        NoiseSchedule(sampler="ddim"),
        sampling=SamplingDefaults(guidance=3.0, steps=25),
    )
    pipe.save_pretrained(bundle / "weights", dtype=np.float16)
    half = Preprocessing(image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5))
    CLIP(clip, tokenizer, half).save_pretrained(bundle / "weights" / "clip", dtype=np.float16)
    captions_of_classes = {name: world.class_caption(name) for name in world.CLASSES}
    embeddings = CLIP(clip, tokenizer, half).embed_text(list(captions_of_classes.values()))
    write_captions(bundle / "captions.safetensors", captions_of_classes, np.asarray(embeddings))
    write_parameters(judge, bundle / "judge.safetensors", np.float16)

    for name in encoders.ENCODERS:
        changes = {"encoder": name, "data.folder": folder / "data", "data.maker": "", "seed": seed}
        config = load_config("toy.py", [f"--config.{key}={value}" for key, value in changes.items()])
        for split, size in (("train", config.data.train_size), ("validation", config.data.held_out)):
            make_split(folder / "data" / split, split, size, seed=0, weights=bundle / "weights")
        encoder = train(config, folder / "encoders" / name)
        encoders.save(encoder, bundle / "encoders" / name, dtype=np.float16)
    return bundle
