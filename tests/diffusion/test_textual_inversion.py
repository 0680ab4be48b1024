"""Textual inversions of diffusers and of the web UI: the images of diffusers, and what a user relies on."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from jaxsd.commands.generate import run_generate
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.diffusion.textual_inversion import parse_embedding, read_textual_inversion
from jaxsd.recipes.recipe import read_json_recipe, read_recipe, recipe_json
from jaxsd.recipes.remake import check_ingredients
from jaxsd.sound_to_image import SoundToImage
from tests.helpers import models

pytestmark = pytest.mark.slow

WIDTH = models.TEXT.hidden_size
PROMPTS = ["a red <cat-toy>, on the left of a <cat-toy>", "a <dog>"]


def vectors(seed, *shape):
    return torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed)) * 0.3


def diffusers_file(folder):
    save_file({"<cat-toy>": vectors(0)}, folder / "learned_embeds.safetensors")
    return folder


def torch_file(folder):
    path = folder / "cat.bin"
    torch.save({"<cat-toy>": vectors(0, 3)}, path)
    return path


def web_ui_torch_file(folder):
    path = folder / "renamed.pt"
    content = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": torch.nn.Parameter(vectors(0, 3))},
        "name": "<cat-toy>",
        "step": 500,
        "sd_checkpoint": None,
        "sd_checkpoint_name": None,
    }
    torch.save(content, path)
    return path


def web_ui_file(folder):
    path = folder / "<cat-toy>.safetensors"
    save_file({"emb_params": vectors(0, 4).half()}, path)
    return path


FILES = [diffusers_file, torch_file, web_ui_torch_file, web_ui_file]


@pytest.fixture(scope="module")
def loaded(folder):
    return StableDiffusion.from_pretrained(folder)


@pytest.fixture
def pipe(loaded):
    yield loaded
    loaded.textual_inversions.clear()


@pytest.fixture
def theirs(folder):
    pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("write", FILES)
def test_hidden_states_are_those_of_diffusers(pipe, theirs, tmp_path, write):
    plain = pipe.encode_text(["a red cat", *PROMPTS])
    path = write(tmp_path)
    theirs.load_textual_inversion(str(path), token="<cat-toy>")
    save_file({"<dog>": vectors(1, 2)}, tmp_path / "dog.safetensors")
    theirs.load_textual_inversion(str(tmp_path / "dog.safetensors"))
    assert pipe.load_textual_inversion(path) == "<cat-toy>"
    pipe.load_textual_inversion(tmp_path / "dog.safetensors")
    ours = np.asarray(pipe.encode_text(["a red cat", *PROMPTS]))
    for text, one, before in zip(PROMPTS, ours[1:], plain[1:], strict=True):
        with torch.no_grad():
            expected = theirs.encode_prompt(text, "cpu", 1, False)[0][0].numpy()
        np.testing.assert_allclose(one, expected, atol=1e-5)
        assert np.abs(one - before).max() > 0.1
    np.testing.assert_array_equal(ours[0], plain[0])
    pipe.textual_inversions.clear()
    np.testing.assert_array_equal(pipe.encode_text(["a red cat", *PROMPTS]), plain)


def test_upper_and_lower_case_are_the_same(pipe, tmp_path):
    pipe.load_textual_inversion(torch_file(tmp_path), "<Cat>")
    upper = pipe.encode_text(["a <cat>", "a <Cat> dog"])
    pipe.textual_inversions.clear()
    pipe.load_textual_inversion(torch_file(tmp_path), "<cat>")
    np.testing.assert_array_equal(pipe.encode_text(["a <Cat>", "a <cat> dog"]), upper)


def test_images_are_those_of_diffusers(pipe, theirs, tmp_path):
    path = torch_file(tmp_path)
    theirs.load_textual_inversion(str(path))
    pipe.load_textual_inversion(path)
    latents = np.random.default_rng(5).standard_normal((1, 8, 8, 4), np.float32)
    with torch.no_grad():
        expected = theirs(
            PROMPTS[:1],
            negative_prompt=["<cat-toy>"],
            latents=torch.tensor(latents).permute(0, 3, 1, 2),
            num_inference_steps=4,
            guidance_scale=3.0,
            height=32,
            width=32,
            output_type="np",
        ).images
    images = pipe(PROMPTS[:1], ["<cat-toy>"], latents=latents, steps=4, guidance=3.0)
    np.testing.assert_allclose(images, expected, atol=1e-3)


def test_a_text_of_too_many_tokens_is_cut_as_in_diffusers(pipe, theirs, tmp_path):
    path = torch_file(tmp_path)
    theirs.load_textual_inversion(str(path))
    pipe.load_textual_inversion(path)
    text = "a red " * 37 + "<cat-toy> dog"
    with pytest.warns(UserWarning, match="a text has more than 77 tokens; not read: '<cat-toy>"):
        ours = pipe.encode_text(text)
    with torch.no_grad():
        expected = theirs.encode_prompt(text, "cpu", 1, False)[0].numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"clip_g": (1, 1280), "clip_l": (1, 768)}, "is a textual inversion of Stable Diffusion XL; allowed"),
        ({"emb_params": (2, 1024)}, "is a textual inversion of Stable Diffusion 2 with vectors of width 1024; this "),
        ({"<x>": (2, 768)}, "is a textual inversion with vectors of width 768; this model's text encoder has 24"),
        ({"<x>": (2, 2, 24)}, "has a tensor of shape (2, 2, 24); allowed: (vectors, width)"),
        ({"<x>": (24,), "<y>": (24,)}, "is no textual inversion: it has 2 keys"),
        ({"lora_unet_a.lora_up.weight": (24,)}, "is a LoRA, which is a change to a model, not a textual inversion"),
        ({" ": (24,)}, "the token of"),
    ],
)
def test_files_that_do_not_fit_get_one_sentence(tmp_path, content, message):
    path = tmp_path / "x.safetensors"
    save_file({key: torch.zeros(shape) for key, shape in content.items()}, path)
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        read_textual_inversion(path, WIDTH)
    assert str(path) in str(raised.value)


def test_torch_files_that_do_not_fit(tmp_path):
    path = tmp_path / "x.pt"
    for content, message in (
        ({"string_to_param": torch.zeros(24)}, "string_to_param must map one name to a tensor"),
        ({"string_to_param": {"*": "a"}, "name": "x"}, "it holds a str in place of a tensor"),
        ({"<x>": torch.full((24,), torch.nan)}, "has values that are not finite"),
        ({"string_to_param": torch.nn.ParameterDict({"*": torch.zeros(24)})}, "could run code when read"),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=message):
            read_textual_inversion(path, WIDTH)
    with pytest.raises(FileNotFoundError, match="holds no textual inversion; allowed: a file, or a folder with learn"):
        (tmp_path / "empty").mkdir()
        read_textual_inversion(tmp_path / "empty", WIDTH)


def test_a_token_that_is_there_is_refused(pipe, tmp_path):
    path = tmp_path / "red.safetensors"
    save_file({"emb_params": vectors(0, 2)}, path)
    with pytest.raises(ValueError, match="the token red is in the vocabulary already; give it another one"):
        pipe.load_textual_inversion(path)
    pipe.load_textual_inversion(path, "<red>")
    with pytest.raises(ValueError, match="the token <RED> is loaded already"):
        pipe.load_textual_inversion(path, "<RED>")


def test_the_argument_of_embedding(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.pt").touch()
    assert parse_embedding("a=b.pt") == ("a=b.pt", None)
    assert parse_embedding("<cat>=cat.pt") == ("cat.pt", "<cat>")
    assert parse_embedding("owner/model") == ("owner/model", None)


def test_a_recipe_names_it(pipe, tmp_path):
    model = SoundToImage({}, pipe)
    (plain,) = model.recipes()
    pipe.load_textual_inversion(torch_file(tmp_path))
    (recipe,) = model.recipes()
    (record,) = recipe.textual_inversions
    assert (record.name, record.token, plain.textual_inversions) == ("cat.bin", "<cat-toy>", ())
    assert read_json_recipe(recipe_json(recipe), "a.png") == recipe
    pipe.textual_inversions.clear()
    pipe.load_textual_inversion(torch_file(tmp_path), "<other>")
    with pytest.raises(ValueError, match="other content than the textual inversions cat.bin have"):
        check_ingredients(Path("a.png"), recipe, model.recipes()[0])


@pytest.mark.long
def test_the_command_draws_it_and_its_recipe_makes_it_again(tmp_path, monkeypatch, capsys, folder):
    monkeypatch.chdir(tmp_path)
    save_file({"emb_params": vectors(3, 2)}, tmp_path / "red.safetensors")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["generate.py", "--model", str(folder), *arguments])
        run_generate()
        return capsys.readouterr()

    made = run("--text", "a <red> dog", "--steps", "2", "--embedding", "<red>=red.safetensors")
    path = made.out.strip()
    (record,) = read_recipe(path).textual_inversions
    assert (record.name, record.token) == ("red.safetensors", "<red>") and "in no text" not in made.err
    with pytest.raises(ValueError, match="name where they are: --embedding <red>=red.safetensors$"):
        run("--recipe", path)
    again = run("--recipe", path, "--embedding", "<red>=red.safetensors", "--out", "again").out.strip()
    assert (tmp_path / again).read_bytes() == (tmp_path / path).read_bytes()
    save_file({"emb_params": vectors(4, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="other content than the textual inversions other.safetensors have"):
        run("--recipe", path, "--embedding", "<red>=other.safetensors")
    assert "its token <blue> is in no text" in run("--text", "a", "--embedding", "<blue>=red.safetensors").err
