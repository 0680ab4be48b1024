"""Trains the toy world's models from a seed, each stage resumable.

The stages share one folder: `pictures.npy` and the like are made once, every stage keeps its checkpoints in a
subfolder, and a finished stage is its `<stage>.safetensors` (the moving average of the parameters).
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import encoders
from jaxsd.clip.pipeline import CLIP, Preprocessing
from jaxsd.clip.tokens import tokenize
from jaxsd.clip.towers import CLIPModel, TextConfig, VisionConfig
from jaxsd.config import load_config
from jaxsd.data.loader import shuffled
from jaxsd.diffusion.denoising import denoising_errors
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.diffusion.samplers import NoiseSchedule
from jaxsd.diffusion.unet import UNet, UNetConfig
from jaxsd.diffusion.vae import VAE, VAEConfig
from jaxsd.files import replacing
from jaxsd.pretrained.mapping import read_parameters, write_parameters
from jaxsd.toy import world
from jaxsd.toy.dataset import encode_pictures, in_batches, to_float
from jaxsd.toy.judge import Judge
from jaxsd.toy.judge import labels as judge_labels
from jaxsd.toy.tokenizer import make_tokenizer
from jaxsd.toy.training import train as train_encoder
from jaxsd.training.loop import fit, init_state, make_step
from jaxsd.training.optimizers import SCHEDULES, muon

TRAIN_SIZE = 30_000
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
TEXT = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION_CONFIG = VisionConfig(
    hidden_size=128, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4, image_size=64, patch_size=8
)
PROJECTION = 128


def stage(folder: Path, name: str, model: nnx.Module, loss, batch, steps: int, peak: float, seed: int, **options):
    """Train `model` with `loss(model, batch, key)` unless it is done; the moving average, as `model`'s type."""
    graph, params = nnx.split(model)
    params = nnx.as_pure(params)
    path = folder / f"{name}.safetensors"
    if not path.exists():
        schedule = SCHEDULES["cosine"](peak, min(200, steps // 10), steps)
        optimiser = optax.chain(optax.clip_by_global_norm(1.0), muon(schedule))
        step = make_step(lambda p, _, b, k: loss(nnx.merge(graph, p), b, k), optimiser, seed)
        state = init_state(params, optimiser)
        state = fit(folder / name, name, state, step, lambda first: map(batch, count(first)), steps, **options)
        write_parameters(nnx.merge(graph, state.average), path, np.float32)
    return read_parameters(model, path)


def cached(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in `path`, made and written there first if need be."""
    if not path.exists():
        with replacing(path) as part:
            np.save(part, make())
    return np.load(path)


def vae_loss(vae: VAE, pictures, key):
    x = to_float(pictures)
    latents = vae.encode(x)
    error = vae.decode(latents.sample(key)) - x
    mse = jnp.mean(error**2)
    kl = latents.kl().mean()
    return jnp.abs(error).mean() + mse + 2e-6 * kl, {"mse": mse, "kl": kl}


def train_vae(folder: Path, pictures: np.ndarray, seed: int) -> VAE:
    batch = shuffled(len(pictures), 8, seed)
    vae = VAE(VAE_CONFIG, rngs=nnx.Rngs(seed))
    return stage(folder, "vae", vae, vae_loss, lambda i: pictures[batch(i)], VAE_STEPS, 2e-3, seed)


def judge_loss(judge: Judge, batch, key):
    pictures, answers = batch
    logits = judge(blurred(to_float(pictures), key))
    losses = {
        name: optax.softmax_cross_entropy_with_integer_labels(logits[name], answers[name]).mean() for name in logits
    }
    return sum(losses.values()), losses


def blurred(pictures: jax.Array, key: jax.Array) -> jax.Array:
    """Pictures with a random 3x3 blur and noise, so that the judge does not live on crisp edges."""
    blur, level, noise = jax.random.split(key, 3)
    share = jax.random.uniform(blur, (len(pictures), 1, 1, 1)) / 3
    for axis in (1, 2):
        sides = jnp.roll(pictures, 1, axis) + jnp.roll(pictures, -1, axis)
        pictures = (1 - 2 * share) * pictures + share * sides
    amount = 0.1 * jax.random.uniform(level, (len(pictures), 1, 1, 1))
    return pictures + amount * jax.random.normal(noise, pictures.shape)


def train_judge(folder: Path, pictures: np.ndarray, scenes, seed: int) -> Judge:
    batch = shuffled(len(pictures), 64, seed + 1)
    answers = judge_labels(scenes)

    def take(i):
        rows = batch(i)
        return pictures[rows], jax.tree.map(lambda x: x[rows], answers)

    judge = Judge(rngs=nnx.Rngs(seed + 1))
    return stage(folder, "judge", judge, judge_loss, take, 1_500, 2e-3, seed + 1)


def clip_loss(clip: CLIPModel, batch, key):
    """CLIP's symmetric cross-entropy over the batch."""
    pictures, tokens = batch
    texts, images = clip.embed_text(tokens), clip.embed_image(to_float(pictures))
    logits = jnp.exp(jnp.minimum(clip.logit_scale[...], jnp.log(100.0))) * texts @ images.T
    diagonal = jnp.arange(len(logits))
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    loss = (cross_entropy(logits, diagonal).mean() + cross_entropy(logits.T, diagonal).mean()) / 2
    return loss, {"accuracy": jnp.mean(logits.argmax(axis=1) == diagonal)}


def train_clip(folder: Path, pictures: np.ndarray, tokens: np.ndarray, text: TextConfig, seed: int) -> CLIPModel:
    batch = shuffled(len(pictures), 128, seed + 2)
    # The text tower is causal: rows after the end-of-text token change nothing, so they are not computed.
    short = tokens[:, : int((tokens == text.eos_token_id).argmax(axis=1).max()) + 1]

    def take(i):
        rows = batch(i)
        return pictures[rows], short[rows]

    clip = CLIPModel(text, VISION_CONFIG, PROJECTION, rngs=nnx.Rngs(seed + 2))
    return stage(folder, "clip", clip, clip_loss, take, CLIP_STEPS, 2e-3, seed + 2)


def unet_loss(unet: UNet, batch, key):
    """The denoising loss with low noise weighted down (min-SNR, arXiv 2303.09556, gamma 5)."""
    latents, context = batch
    errors, ratio = denoising_errors(unet, NoiseSchedule(), latents, context, key)
    return jnp.mean(jnp.minimum(5.0 / ratio, 1.0) * errors), {"mse": errors.mean()}


def train_unet(folder: Path, latents: np.ndarray, contexts: np.ndarray, which: np.ndarray, seed: int) -> UNet:
    """`contexts[which[i]]` is the text of `latents[i]`; `contexts[0]`, the empty one, stands in for a tenth."""
    batch = shuffled(len(latents), 32, seed + 3)

    def take(i):
        rows = batch(i)
        dropped = np.random.default_rng([seed, i]).random(len(rows)) < 0.1
        return latents[rows], contexts[np.where(dropped, 0, which[rows])]

    unet = UNet(UNET_CONFIG, rngs=nnx.Rngs(seed + 3))
    return stage(folder, "unet", unet, unet_loss, take, UNET_STEPS, 4e-3, seed + 3, save_every=1_000)


def encode_texts(text_model, tokens: np.ndarray) -> np.ndarray:
    """The hidden states of token ids, float16 (n, 77, width)."""
    encode = nnx.jit(lambda model, x: model(x).hidden_states.astype(jnp.float16))
    return in_batches(lambda x: encode(text_model, x), tokens)


def run(folder: Path, seed: int = 0) -> Path:
    """Train the VAE, the judge, CLIP, the U-Net and the encoders in `folder`, or what is left of it.

    Returns `folder/bundle`, laid out as the package ships it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scenes = world.scenes("train", TRAIN_SIZE, seed)
    captions = world.captions("train", TRAIN_SIZE, seed)
    pictures = cached(folder / "pictures.npy", lambda: world.pictures(scenes))

    tokenizer = make_tokenizer(captions)
    tokenizer.save_pretrained(folder / "tokenizer")
    text = TextConfig(**TEXT, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    texts, which = np.unique(["", *captions], return_inverse=True)
    tokens = tokenize(tokenizer, list(texts))
    which = which[1:]

    vae = train_vae(folder, pictures, seed)
    judge = train_judge(folder, pictures, scenes, seed)
    clip = train_clip(folder, pictures, tokens[which], text, seed)
    latents = cached(folder / "latents.npy", lambda: encode_pictures(vae, pictures))
    vae.config = replace(vae.config, scaling_factor=round(float(1 / latents.std()), 5))
    latents = latents * np.float32(vae.config.scaling_factor)
    contexts = cached(folder / "contexts.npy", lambda: encode_texts(clip.text_model, tokens))
    unet = train_unet(folder, latents, contexts, which, seed)

    bundle = folder / "bundle"
    pipe = StableDiffusion(unet, vae, clip.text_model, folder / "tokenizer", NoiseSchedule(sampler="ddim"))
    pipe.save_pretrained(bundle / "weights", dtype=np.float16)
    half = Preprocessing(image_mean=(0.5, 0.5, 0.5), image_std=(0.5, 0.5, 0.5))
    CLIP(clip, tokenizer, half).save_pretrained(bundle / "weights" / "clip", dtype=np.float16)
    write_parameters(judge, bundle / "judge.safetensors", np.float16)

    for name in encoders.ENCODERS:
        changes = {"encoder": name, "data.folder": folder / "data", "seed": seed}
        config = load_config("toy.py", [f"--config.{key}={value}" for key, value in changes.items()])
        encoder = train_encoder(config, folder / "encoders" / name, bundle / "weights")
        encoders.save(encoder, bundle / "encoders" / name, dtype=np.float16)
    return bundle
