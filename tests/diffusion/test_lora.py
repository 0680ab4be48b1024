"""LoRAs in the files of diffusers, PEFT and kohya's scripts: the images of diffusers, and what a user relies on."""

import json
import re

import jax
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import load_file, save_file

from jaxsd.diffusion.lora import parse_lora
from jaxsd.diffusion.pipeline import StableDiffusion

pytestmark = pytest.mark.slow

UNET_LINEAR = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "time_emb_proj"]
UNET_CONV = ["conv1", "conv2", "conv_shortcut", "proj_in", "proj_out", "conv_in", "downsamplers.0.conv"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
PROMPT = ["a red dog on the left"]


@pytest.fixture(scope="module")
def pipe(folder):
    return StableDiffusion.from_pretrained(folder)


@pytest.fixture(autouse=True)
def no_loras(request):
    yield
    if "pipe" in request.fixturenames:
        request.getfixturevalue("pipe").loras.clear()


@pytest.fixture
def theirs(folder):
    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def config(modules, **options):
    return LoraConfig(**{"r": 4, "lora_alpha": 2, "target_modules": modules, "init_lora_weights": False} | options)


def draw(seed, *networks):
    """Factors of a size that changes the image, drawn from a seed."""
    generator = torch.Generator().manual_seed(seed)
    for network in networks:
        for name, value in network.named_parameters():
            if "lora_" in name:
                value.data = torch.randn(value.shape, generator=generator) * 0.2


def their_images(theirs):
    latents = np.random.default_rng(5).standard_normal((1, 8, 8, 4), np.float32)
    with torch.no_grad():
        return theirs(
            PROMPT,
            latents=torch.tensor(latents).permute(0, 3, 1, 2),
            num_inference_steps=4,
            guidance_scale=3.0,
            height=32,
            width=32,
            output_type="np",
        ).images


def our_images(pipe):
    latents = np.random.default_rng(5).standard_normal((1, 8, 8, 4), np.float32)
    return np.asarray(pipe(PROMPT, latents=latents, steps=4, guidance=3.0))


def add_adapters(theirs, seed=0, unet=(), text=(), adapter="default", **options):
    networks = []
    for network, modules in ((theirs.unet, unet), (theirs.text_encoder, text)):
        if modules:
            inject_adapter_in_model(config(list(modules), **options), network, adapter)
            networks.append(network)
    draw(seed, *networks)


def diffusers_file(theirs, folder):
    """What diffusers writes of the adapters in a pipeline."""
    layers, configs = {}, {}
    for component in ("unet", "text_encoder"):
        network = getattr(theirs, component)
        if hasattr(network, "peft_config"):
            state = get_peft_model_state_dict(network)
            layers[f"{component}_lora_layers"] = convert_state_dict_to_diffusers(state)
            configs[f"{component}_lora_adapter_metadata"] = network.peft_config["default"].to_dict()
    for values in configs.values():
        values["target_modules"] = sorted(values["target_modules"])
    StableDiffusionPipeline.save_lora_weights(folder, **layers, **configs)
    return folder / "pytorch_lora_weights.safetensors"


CASES = {
    "linear": {"unet": UNET_LINEAR},
    "convolutions": {"unet": UNET_CONV},
    "text encoder alone": {"text": TEXT},
    "both": {"unet": UNET_LINEAR + UNET_CONV, "text": TEXT},
    "ranks and alphas by layer": {
        "unet": UNET_LINEAR,
        "rank_pattern": {"to_q": 2, "attn2.to_k": 7},
        "alpha_pattern": {"to_q": 5},
    },
    "scaled by the root of the rank": {"unet": UNET_LINEAR, "use_rslora": True},
}


@pytest.mark.parametrize("case", CASES)
def test_a_file_of_diffusers(pipe, theirs, tmp_path, case):
    plain = our_images(pipe)
    add_adapters(theirs, **CASES[case])
    expected = their_images(theirs)
    pipe.load_lora(diffusers_file(theirs, tmp_path))
    images = our_images(pipe)
    assert np.abs(images - plain).max() > 0.02
    np.testing.assert_allclose(images, expected, atol=1e-3)


def kohya_file(theirs, path):
    """As diffusers converts adapters to the names of kohya's scripts, with an alpha for each layer."""
    keys = {}
    for component in ("unet", "text_encoder"):
        network = getattr(theirs, component)
        if hasattr(network, "peft_config"):
            state = {f"{component}.{key}": value for key, value in get_peft_model_state_dict(network).items()}
            keys |= convert_state_dict_to_kohya(state)
    ups = [key for key in keys if key.endswith("lora_up.weight")]
    keys |= {key.replace("lora_up.weight", "alpha"): torch.tensor(2.0) for key in ups}
    save_file({key: value.contiguous() for key, value in keys.items()}, path)
    return path


def test_a_file_with_the_names_of_kohya(pipe, theirs, folder, tmp_path):
    add_adapters(theirs, unet=UNET_LINEAR + UNET_CONV, text=TEXT)
    expected = their_images(theirs)
    path = kohya_file(theirs, tmp_path / "kohya.safetensors")
    assert all(key.startswith(("lora_unet_", "lora_te1_")) for key in load_file(path))
    pipe.load_lora(path)
    np.testing.assert_allclose(our_images(pipe), expected, atol=1e-3)
    pipe.loras.clear()  # the scripts for Stable Diffusion 1.x leave out the 1
    pipe.load_lora(rename(path, tmp_path / "te.safetensors", lambda key: key.replace("lora_te1_", "lora_te_")))
    np.testing.assert_allclose(our_images(pipe), expected, atol=1e-3)


def test_a_folder_of_peft(pipe, theirs, tmp_path):
    theirs.unet = get_peft_model(theirs.unet, config(UNET_LINEAR + UNET_CONV, lora_alpha=3))
    draw(0, theirs.unet)
    theirs.unet.save_pretrained(tmp_path)
    theirs.unet = theirs.unet.base_model.model
    expected = their_images(theirs)
    pipe.load_lora(tmp_path)
    np.testing.assert_allclose(our_images(pipe), expected, atol=1e-3)


def rename(path, new, change):
    tensors = {change(key): value for key, value in load_file(path).items()}
    save_file(tensors, new)
    return new


def test_older_and_mixed_names(pipe, theirs, tmp_path):
    """The attention processors and the linear layers of the first diffusers, beside PEFT's own."""
    add_adapters(theirs, unet=["to_q", "to_k", "to_out.0", "proj_in"], lora_alpha=4)
    expected = their_images(theirs)
    state = {f"unet.{key}": value.contiguous() for key, value in get_peft_model_state_dict(theirs.unet).items()}
    path = tmp_path / "peft.safetensors"
    save_file(state, path)

    def older(key):
        key = re.sub(r"to_q\.lora_A\.weight", "processor.to_q_lora.down.weight", key)
        key = re.sub(r"to_q\.lora_B\.weight", "processor.to_q_lora.up.weight", key)
        key = re.sub(r"to_out\.0\.lora_A", "to_out.lora.down", key).replace("to_out.0.lora_B", "to_out.lora.up")
        key = key.replace("proj_in.lora_A", "proj_in.lora_linear_layer.down")
        return key.replace("proj_in.lora_B", "proj_in.lora_linear_layer.up").removeprefix("unet.")

    older_path = rename(path, tmp_path / "older.safetensors", older)
    assert any("processor.to_q_lora.down" in key for key in load_file(older_path))
    assert any("lora_A" in key for key in load_file(older_path))
    pipe.load_lora(older_path)
    np.testing.assert_allclose(our_images(pipe), expected, atol=1e-3)


def test_single_file_names_and_tucker_factors(pipe, theirs, tmp_path, rng):
    """The names of the first Stable Diffusion code, and LoCon's three convolutions in place of two."""
    draw_normal = lambda *shape: torch.tensor(rng.standard_normal(shape, np.float32) * 0.3)  # noqa: E731
    down, mid, up = draw_normal(3, 16, 1, 1), draw_normal(3, 3, 3, 3), draw_normal(16, 3, 1, 1)
    name = "lora_unet_input_blocks_1_0_out_layers_3"
    parts = {"lora_down.weight": down, "lora_mid.weight": mid, "lora_up.weight": up, "alpha": torch.tensor(1.5)}
    save_file({f"{name}.{part}": value for part, value in parts.items()}, tmp_path / "locon.safetensors")
    conv = theirs.unet.down_blocks[0].resnets[0].conv2
    conv.weight.data += 0.5 * torch.einsum("or,rshw,si->oihw", up[:, :, 0, 0], mid, down[:, :, 0, 0])
    pipe.load_lora(tmp_path / "locon.safetensors")
    np.testing.assert_allclose(our_images(pipe), their_images(theirs), atol=1e-3)


def test_several_with_weights(pipe, folder, tmp_path):
    both = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    both.set_progress_bar_config(disable=True)
    for name, seed, weight in (("one", 1, 0.7), ("two", 2, -0.4)):
        made = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
        layers = {"unet": UNET_LINEAR if seed == 1 else UNET_LINEAR + UNET_CONV, "text": TEXT, "r": 2 + seed}
        add_adapters(made, seed, **layers)
        (tmp_path / name).mkdir()
        pipe.load_lora(diffusers_file(made, tmp_path / name), weight, name)
        for component in ("unet", "text_encoder"):  # PEFT merges one after the other
            for module in (changed := getattr(made, component)).modules():
                if hasattr(module, "merge") and hasattr(module, "lora_A"):
                    module.scale_layer(weight)
                    change = module.get_delta_weight("default")
                    named = [n for n, other in changed.named_modules() if other is module]
                    getattr(both, component).get_submodule(named[0]).weight.data += change
    np.testing.assert_allclose(our_images(pipe), their_images(both), atol=1e-3)


def test_weights_compile_nothing_and_removal_is_exact(pipe, theirs, tmp_path):
    plain = our_images(pipe)
    add_adapters(theirs, unet=UNET_LINEAR, text=TEXT)
    pipe.load_lora(diffusers_file(theirs, tmp_path), 0.5, name="style")
    half = our_images(pipe)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
    )
    pipe.loras["style"].weight = 0.8
    more = our_images(pipe)
    assert not compiled and np.abs(more - half).max() > 0.005
    pipe.loras["style"].weight = 0.0
    np.testing.assert_array_equal(our_images(pipe), plain)
    pipe.loras["style"].weight = 0.5
    np.testing.assert_array_equal(our_images(pipe), half)
    del pipe.loras["style"]
    np.testing.assert_array_equal(our_images(pipe), plain)
    assert not compiled


def test_merged_loras_are_saved(folder, theirs, tmp_path):
    pipe = StableDiffusion.from_pretrained(folder)
    add_adapters(theirs, unet=UNET_LINEAR, text=TEXT)
    pipe.load_lora(diffusers_file(theirs, tmp_path), 0.5)
    expected = our_images(pipe)
    pipe.merge_loras()
    assert not pipe.loras
    np.testing.assert_array_equal(our_images(pipe), expected)
    pipe.save_pretrained(tmp_path / "merged")
    again = StableDiffusion.from_pretrained(tmp_path / "merged")
    np.testing.assert_allclose(our_images(again), expected, atol=1e-5)


def factors(layer, down, up, **more):
    return {f"{layer}.lora_down.weight": torch.ones(down), f"{layer}.lora_up.weight": torch.ones(up)} | more


TO_K = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


@pytest.mark.parametrize(
    "tensors, message",
    [
        (factors(TO_K, (4, 24), (16, 5)), "has a factor down of shape (4, 24), expected (5, 24)"),
        (factors(TO_K, (4, 2048), (16, 4)), "shape (4, 2048), as in Stable Diffusion XL, expected (4, 24)"),
        (factors(TO_K, (4, 1024), (16, 4)), "shape (4, 1024), as in Stable Diffusion 2, expected (4, 24)"),
        ({f"{TO_K}.lora_down.weight": torch.ones(4, 24)}, f"{TO_K} has no factor up"),
        (factors(TO_K, (4, 24), (16, 4), **{f"{TO_K}.alpha": torch.ones(3)}), "alpha of shape (3,), expected one num"),
        (factors(TO_K, (4, 24), (16, 4), **{"x.diff": torch.ones(1)}), "x.diff belongs to no LoRA"),
        (factors("lora_unet_nowhere", (4, 24), (16, 4)), "unknown layer lora_unet_nowhere"),
        (factors(TO_K, (4, 24), (16, 4), **{f"{TO_K}.lora_A.weight": torch.ones(4, 24)}), "has two tensors down"),
        ({f"{TO_K}.hada_w1_a": torch.ones(2)}, "is a LoHa; allowed: a LoRA of Stable Diffusion 1.x"),
        (factors(TO_K, (4, 24), (16, 4), **{f"{TO_K}.dora_scale": torch.ones(1)}), "is a DoRA"),
        (factors("lora_te2_text_model_x", (4, 24), (16, 4)), "is a LoRA of Stable Diffusion XL"),
        (
            factors("lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_k", (4, 24), (16, 4)),
            "is a LoRA of Stable Diffusion XL",
        ),
        (factors("lora_unet_double_blocks_0_img_attn_proj", (4, 24), (16, 4)), "is a LoRA of Flux"),
        ({"transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight": torch.ones(2, 2)}, "is a LoRA of Flux"),
        ({"model.diffusion_model.input_blocks.0.0.weight": torch.ones(2)}, "is no LoRA: no key ends in"),
        ({}, "is no LoRA: no key ends in"),
        (factors(TO_K, (4, 24), (16, 4), **{f"{TO_K}.alpha": torch.tensor(float("nan"))}), "that are not finite"),
    ],
)
def test_files_that_are_refused(pipe, tmp_path, tensors, message):
    path = tmp_path / "style.safetensors"
    save_file(tensors, path)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        pipe.load_lora(path)
    assert str(path) in str(caught.value) and not pipe.loras


def test_layers_under_two_names_and_configs_are_refused(pipe, tmp_path):
    path = tmp_path / "style.safetensors"
    peft = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    twice = factors(TO_K, (4, 24), (16, 4)) | factors(peft, (4, 24), (16, 4))
    save_file(twice, path)
    with pytest.raises(ValueError, match="is there under two names"):
        pipe.load_lora(path)
    for config, message in (
        ({"unet.use_dora": True}, "the adapter is a DoRA"),
        ({"unet.lora_alpha": "4"}, "lora_alpha is '4'; allowed: a finite number"),
    ):
        save_file(factors(TO_K, (4, 24), (16, 4)), path, metadata={"lora_adapter_metadata": json.dumps(config)})
        with pytest.raises(ValueError, match=message):
            pipe.load_lora(path)


def test_sources_and_weights(pipe, tmp_path):
    assert parse_lora("a/style.safetensors:0.7") == ("a/style.safetensors", 0.7)
    assert parse_lora("style.safetensors") == ("style.safetensors", 1.0)
    assert parse_lora("odd:name") == ("odd:name", 1.0)
    with pytest.raises(FileNotFoundError, match="nowhere.safetensors: no such file"):
        pipe.load_lora(tmp_path / "nowhere.safetensors")
    with pytest.raises(FileNotFoundError, match="holds no LoRA; allowed: a file, or a folder with"):
        pipe.load_lora(tmp_path)
    save_file(factors(TO_K, (4, 24), (16, 4)), tmp_path / "style.safetensors")
    with pytest.raises(ValueError, match="the weight of a LoRA is nan; allowed: a finite number"):
        pipe.load_lora(tmp_path / "style.safetensors", float("nan"))
    pipe.load_lora(tmp_path / "style.safetensors")
    with pytest.raises(ValueError, match="is loaded already"):
        pipe.load_lora(tmp_path / "style.safetensors")
