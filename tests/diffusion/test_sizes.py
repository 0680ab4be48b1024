"""The published models' sizes, without memory."""

import jax
import pytest
from flax import nnx

from jaxsd.clip.towers import CLIPModel, TextConfig, TextModel, VisionConfig
from jaxsd.diffusion.unet import UNet, UNetConfig
from jaxsd.diffusion.vae import VAE, VAEConfig

pytestmark = pytest.mark.long

TEXT = TextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
VISION = VisionConfig(
    hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14
)


@pytest.mark.parametrize(
    "make, size",
    [
        (lambda: UNet(UNetConfig(), rngs=nnx.Rngs(0)), 859_520_964),
        (lambda: VAE(VAEConfig(), rngs=nnx.Rngs(0)), 83_653_863),
        (lambda: TextModel(TEXT, rngs=nnx.Rngs(0)), 123_060_480),
        (lambda: CLIPModel(TEXT, VISION, 768, rngs=nnx.Rngs(0)), 427_616_513),
    ],
    ids=["unet", "vae", "text encoder", "CLIP ViT-L/14"],
)
def test_parameters(make, size):
    model = nnx.eval_shape(make)
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == size
