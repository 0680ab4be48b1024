"""Small random models that have every kind of block, for parity tests."""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
from flax import nnx

from jaxsd.clip.pipeline import CLIP, Preprocessing
from jaxsd.clip.tokens import load_tokenizer
from jaxsd.clip.towers import CLIPModel, TextConfig, TextModel, VisionConfig
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.diffusion.samplers import NoiseSchedule
from jaxsd.diffusion.unet import UNet, UNetConfig
from jaxsd.diffusion.vae import VAE, VAEConfig
from jaxsd.pretrained.mapping import abstract_model
from jaxsd.runtime.bundled import TOY_MODEL

TOKENIZER = TOY_MODEL / "tokenizer"
TOKENS = load_tokenizer(TOKENIZER, TextConfig(vocab_size=1024))

UNET = UNetConfig(
    sample_size=8,
    block_out_channels=(16, 32),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    layers_per_block=1,
    cross_attention_dim=24,
    attention_head_dim=4,
    norm_num_groups=8,
)
AUTOENCODER = VAEConfig(block_out_channels=(8, 16, 16), layers_per_block=1, norm_num_groups=4)
TEXT = TextConfig(
    hidden_size=24,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=3,
    vocab_size=len(TOKENS),
    eos_token_id=TOKENS.eos_token_id,
)
VISION = VisionConfig(
    hidden_size=36, intermediate_size=72, num_hidden_layers=2, num_attention_heads=3, image_size=32, patch_size=8
)


def randomised(make: Callable[..., nnx.Module], seed: int) -> nnx.Module:
    """What `make(rngs=...)` makes with every parameter random, so that no zero bias or unit scale hides an error."""
    rng = np.random.default_rng(seed)
    graph, params = nnx.split(abstract_model(make))

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        return np.float32("scale" in name) + rng.normal(0, 0.15, leaf.shape).astype(np.float32)

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(draw, nnx.as_pure(params)))


def stable_diffusion(prediction_type: str = "epsilon") -> StableDiffusion:
    return StableDiffusion(
        randomised(partial(UNet, UNET), 0),
        randomised(partial(VAE, AUTOENCODER), 1),
        randomised(partial(TextModel, TEXT), 2),
        TOKENIZER,
        NoiseSchedule(prediction_type=prediction_type, sampler="ddim"),
    )


def clip() -> CLIP:
    model = randomised(partial(CLIPModel, TEXT, VISION, 20), 3)
    return CLIP(model, TOKENS, Preprocessing())
