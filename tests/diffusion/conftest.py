
import jax
import numpy as np
import pytest
from flax import nnx

from jaxsd.clip.towers import TextConfig
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.diffusion.samplers import NoiseSchedule
from jaxsd.diffusion.unet import UNet, UNetConfig
from jaxsd.diffusion.vae import VAE, VAEConfig
from jaxsd.toy.bundled import WEIGHTS

UNET = UNetConfig(
    sample_size=8,
    block_out_channels=(16, 32, 32),
    down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    cross_attention_dim=24,
    attention_head_dim=4,
    norm_num_groups=8,
)
VAE_ = VAEConfig(block_out_channels=(8, 16, 16), layers_per_block=1, norm_num_groups=4)
TEXT = TextConfig(
    hidden_size=24,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=3,
    vocab_size=650,
    eos_token_id=649,
)


def randomised(model: nnx.Module, seed: int = 0) -> nnx.Module:
    """`model` with every parameter random, so that no zero bias or unit scale hides an error."""
    rng = np.random.default_rng(seed)
    graph, params = nnx.split(model)
    params = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape).astype(np.float32), params)
    return nnx.merge(graph, params)


@pytest.fixture(scope="session")
def tiny() -> StableDiffusion:
    """A random Stable Diffusion of every kind of block, small."""
    return StableDiffusion(
        randomised(UNet(UNET, rngs=nnx.Rngs(0))),
        randomised(VAE(VAE_, rngs=nnx.Rngs(1))),
        randomised(__import__("jaxsd.clip.towers", fromlist=["TextModel"]).TextModel(TEXT, rngs=nnx.Rngs(2))),
        WEIGHTS / "tokenizer",
        NoiseSchedule(),
    )
