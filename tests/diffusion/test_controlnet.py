"""ControlNets: the residuals and images of diffusers, and what a user relies on."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from flax import nnx
from PIL import Image
from safetensors.torch import save_file

from jaxsd.diffusion import programs
from jaxsd.diffusion.controlnet import ControlNetConfig, first_code_mapping, load_controlnet
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.pretrained.mapping import export_parameters
from jaxsd.recipes.recipe import read_recipe
from tests.helpers import models

pytestmark = pytest.mark.slow

CONFIG = {
    "block_out_channels": (16, 32),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
    "conditioning_embedding_out_channels": (4, 8, 8),
}
PROGRAMS = programs.embed_control, programs.compute_keys_values, programs.denoise, programs.decode_images


def random_controlnet(**changes):
    torch.manual_seed(0)
    network = ControlNetModel(**CONFIG | changes)
    for parameter in network.parameters():  # the last convolutions are 0 at first
        parameter.data += 0.1 * torch.randn(parameter.shape)
    return network.eval()


@pytest.fixture(scope="module")
def controlnet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("controlnet")
    random_controlnet().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pipe(folder, controlnet):
    pipe = StableDiffusion.from_pretrained(folder)
    pipe.load_controlnet(controlnet)
    return pipe


@pytest.fixture
def arrays(rng):
    latents = rng.standard_normal((1, 8, 8, 4), np.float32)
    return latents, Image.fromarray(rng.integers(0, 256, (40, 48, 3), np.uint8))


def to_torch(x):
    return torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)


def test_the_residuals_are_those_of_diffusers(controlnet, rng):
    ours, theirs = load_controlnet(controlnet, jnp.float32), ControlNetModel.from_pretrained(controlnet)
    latents, image = rng.standard_normal((2, 8, 8, 4), np.float32), rng.random((2, 32, 32, 3), np.float32)
    context, timesteps = rng.standard_normal((2, 77, 24), np.float32), np.array([3, 800])

    @nnx.jit
    def residuals(network, latents, timesteps, context, image):
        return network.residuals(latents, timesteps, network.keys_values(context), network.embed_images(image), 0.7)

    found = residuals(ours, *map(jnp.asarray, (latents, timesteps, context, image)))
    with torch.no_grad():
        context, timesteps = torch.tensor(context), torch.tensor(timesteps)
        expected = theirs(to_torch(latents), timesteps, context, to_torch(image), 0.7, return_dict=False)
    for one, other in zip([*found.skips, found.middle], [*expected[0], expected[1]], strict=True):
        np.testing.assert_allclose(one, other.permute(0, 2, 3, 1), atol=1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("scale, guidance", [(1.0, 3.0), (0.4, 2.0)])
def test_the_images_are_those_of_diffusers(pipe, folder, controlnet, arrays, scale, guidance):
    latents, image = arrays
    theirs = StableDiffusionControlNetPipeline.from_pretrained(
        folder, controlnet=ControlNetModel.from_pretrained(controlnet), dtype=torch.float32
    )
    theirs.set_progress_bar_config(disable=True)
    with torch.no_grad():
        expected = theirs(
            "a red dog",
            image,
            latents=to_torch(latents),
            num_inference_steps=3,
            guidance_scale=guidance,
            controlnet_conditioning_scale=scale,
            height=32,
            width=32,
            output_type="np",
        ).images
    options = {"steps": 3, "guidance": guidance, "latents": latents}
    images = pipe("a red dog", control_image=image, control_scale=scale, **options)
    assert np.abs(np.asarray(images) - np.asarray(pipe("a red dog", **options))).max() > 0.02
    np.testing.assert_allclose(images, expected, atol=1e-3)


def test_another_image_and_another_scale_compile_nothing_and_each_example_has_its_own(pipe, arrays, rng):
    latents, image = arrays
    cond = rng.standard_normal((2, 77, 24), np.float32)
    other = image.rotate(180)
    options = {"steps": 2, "latents": np.concatenate([latents, latents])}
    both = np.stack([np.asarray(one.resize((32, 32)), np.float32) / 255 for one in (image, other)])
    images = pipe(cond, control_image=both, **options)
    before = [program._cache_size() for program in PROGRAMS]
    first, second = (pipe(cond, control_image=one[None], **options) for one in both)
    weak = pipe(cond, control_image=both, control_scale=0.2, **options)
    assert [program._cache_size() for program in PROGRAMS] == before
    np.testing.assert_allclose(images[0], first[0], atol=1e-5)
    np.testing.assert_allclose(images[1], second[1], atol=1e-5)
    assert np.abs(np.asarray(weak) - np.asarray(images)).max() > 0.01


def test_one_file_with_the_names_of_either_code(controlnet, tmp_path):
    config = ControlNetConfig(**CONFIG)
    expected = load_controlnet(controlnet, jnp.float32)
    theirs = export_parameters(expected, first_code_mapping(config, "control_model."))
    assert "control_model.input_hint_block.10.weight" in theirs and "control_model.zero_convs.3.0.bias" in theirs
    for name, tensors in (
        ("first.safetensors", theirs | {"model.diffusion_model.out.0.bias": np.zeros(3, np.float32)}),
        ("bare.safetensors", {key.removeprefix("control_model."): value for key, value in theirs.items()}),
        ("diffusers.safetensors", ControlNetModel.from_pretrained(controlnet).state_dict()),
    ):
        save_file({key: torch.as_tensor(value).contiguous() for key, value in tensors.items()}, tmp_path / name)
        found = load_controlnet(tmp_path / name, jnp.float32, config=config)
        assert jax.tree.all(jax.tree.map(np.array_equal, *(nnx.as_pure(nnx.state(one)) for one in (found, expected))))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"cross_attention_dim": 1024}, "config.json is that of Stable Diffusion 2, not of a ControlNet for"),
        ({"layers_per_block": 2}, "the ControlNet's layers_per_block is 2, and the model's is 1"),
        ({"conditioning_embedding_out_channels": (4, 8)}, "scale of the image is 2, and the model's is 4"),
        ({"controlnet_conditioning_channel_order": "bgr"}, "channel_order is 'bgr'; this model has 'rgb'"),
    ],
)
def test_what_does_not_fit_is_refused(pipe, tmp_path, changes, message):
    ControlNetModel(**CONFIG | changes).save_pretrained(tmp_path)
    before = pipe.controlnet
    with pytest.raises(ValueError, match=re.escape(message)):
        pipe.load_controlnet(tmp_path)
    assert pipe.controlnet is before


def test_images_and_files_that_are_none(folder, pipe, arrays, tmp_path):
    plain = StableDiffusion.from_pretrained(folder)
    with pytest.raises(ValueError, match="there is a control image and no ControlNet"):
        plain("a dog", control_image=arrays[1])
    with pytest.raises(ValueError, match="3 control images for 1 example; allowed: as many, or one"):
        pipe("a dog", control_image=np.zeros((3, 8, 8, 3)))
    with pytest.raises(ValueError, match="control_scale is nan; allowed: a finite number"):
        pipe("a dog", control_image=arrays[1], control_scale=float("nan"))
    models.stable_diffusion().save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="does not fit"):
        pipe.load_controlnet(tmp_path / "model" / "unet")


def test_the_command_draws_with_it_and_its_recipe_makes_it_again(folder, controlnet, arrays, tmp_path, run_jaxsd):
    arrays[1].save(tmp_path / "edges.png")
    drawn = ["generate", "--text", "a dog", "--model", folder, "--steps", 2, "--out", "out"]
    control = ["--controlnet", controlnet, "--control-image", "edges.png"]
    status, out, err = run_jaxsd(*drawn, *control, "--control-scale", 0.5)
    assert status == 0, err
    made = tmp_path / out.strip()
    recipe = read_recipe(made)
    assert recipe.control_image and recipe.controlnet
    assert (recipe.control_image.name, recipe.control_scale) == ("edges.png", 0.5)
    again = ["generate", "--recipe", made, "--model", folder, "--out", "again"]
    assert f"--controlnet {controlnet.name}" in run_jaxsd(*again)[2]  # a recipe leads to no folder
    status, out, err = run_jaxsd(*again, "--controlnet", controlnet)
    assert status == 0, err
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / out.strip())), np.asarray(Image.open(made)))
    status, _, err = run_jaxsd(*drawn, "--controlnet", controlnet)
    assert status == 2 and "--controlnet and --control-image go together" in err
