"""Recipes in PNG files: what they say, that they make the same image again, and what is refused."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
from flax import nnx
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import encoders
from jaxsd.commands.generate import run_generate
from jaxsd.recipes.recipe import (
    LARGEST_CHUNK,
    InversionRecord,
    ModelRecord,
    Recipe,
    SoundRecord,
    attach_recipe,
    hash_file,
    read_recipe,
    save_png,
    web_ui_parameters,
)
from jaxsd.recipes.remake import find_ingredients
from jaxsd.runtime.bundled import TOY_SAMPLES
from jaxsd.sound_to_image import SoundToImage
from tests.helpers import models

NAMED_NOTHING = dict.fromkeys(
    ("model", "encoder", "lora", "embedding", "controlnet", "tokenizer", "vae")
    + ("audio", "image", "mask", "control_image")
)
RECIPE = Recipe(
    ModelRecord("toy", "ab" * 32),
    encoders=(ModelRecord("gemini", "cd" * 32),),
    sounds=(SoundRecord("dog.wav", hash_file(TOY_SAMPLES / "dog.wav"), 1.5),),
    prompt="a dog, at night",
    negative="rain",
    steps=20,
    sampler="euler_a",
    guidance=7.0,
    seed=5,
    versions="jaxsd 0.1.0, jax 0.10",
)


def write_chunk(path, **chunks):
    info = PngInfo()
    for name, text in chunks.items():
        info.add_text(name, text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def test_a_file_says_how_its_image_was_made(tmp_path):
    save_png(attach_recipe(Image.new("RGB", (8, 8)), RECIPE), tmp_path / "dog.png")
    assert read_recipe(tmp_path / "dog.png") == RECIPE
    assert Image.open(tmp_path / "dog.png").info["parameters"] == (
        "a dog, at night\nNegative prompt: rain\n"
        "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 512x512, Model hash: ababababab, Model: toy, "
        "Sound: dog.wav, Audio encoder: gemini, Version: jaxsd 0.1.0"
    )


def test_values_with_commas_are_quoted_as_the_web_ui_does():
    two = dataclasses.replace(RECIPE, sounds=(SoundRecord("a.wav", "1"), SoundRecord(None, "2")))
    assert 'Sound: "a.wav, an array"' in web_ui_parameters(two)


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (None, "does not say how it was made: it is no PNG file with a text chunk `jaxsd`"),
        ("{", "is damaged: it is not valid JSON"),
        ("[" * 100_000, "is damaged: it is not valid JSON"),
        ("[1]", "is damaged: it holds a JSON list, not an object"),
        ('{"version": 2}', "is of version 2; this jaxsd reads version 1"),
        ('{"version": 1}', "is damaged: a Recipe in it has no model"),
        ('{"version": 1, "model": {"name": "toy"}}', "is damaged: a ModelRecord in it has no sha256"),
        ('{"version": 1, "model": "toy"}', "a ModelRecord is 'toy'; allowed: an object"),
        ('{"version": 1, "model": {"name": "toy", "sha256": "a"}, "sounds": 3}', "sounds is 3; allowed: a list"),
        ('{"version": 1, "model": {"name": "toy", "sha256": "a"}, "steps": "x"}', "steps is 'x'; allowed: a whole"),
        ('{"version": 1, "model": {"name": "toy", "sha256": "a"}, "seed": -1}', "seed is -1; allowed: from 0"),
        (
            '{"version": 1, "model": {"name": "toy", "sha256": "a"}, "sounds": [{"name": "../a.wav", "sha256": ""}]}',
            "it names the file '../a.wav'; allowed: a name without folders",
        ),
        (f'"{"x" * LARGEST_CHUNK}"', f"has {LARGEST_CHUNK + 2} characters; allowed: up to {LARGEST_CHUNK}"),
    ],
)
def test_chunks_that_are_none_get_one_sentence(tmp_path, chunk, message):
    path = write_chunk(tmp_path / "a.png", **({} if chunk is None else {"jaxsd": chunk}))
    with pytest.raises(ValueError, match="a.png") as raised:
        read_recipe(path)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_what_a_recipe_alone_may_not_load_must_be_named(tmp_path):
    recipe = dataclasses.replace(
        RECIPE,
        model=ModelRecord("stranger/model", "1"),
        encoders=(ModelRecord("runs/x", "2"),),
        loras=(ModelRecord("style.safetensors", "3", 0.7),),
        textual_inversions=(InversionRecord("cat.pt", "4", "<cat>"),),
        vae="other",
    )
    with pytest.raises(ValueError) as raised:
        find_ingredients(tmp_path / "a.png", recipe, NAMED_NOTHING)
    flags = "--model stranger/model --encoder runs/x --lora style.safetensors:0.7 --embedding <cat>=cat.pt --vae other"
    assert flags in str(raised.value)


def test_sounds_are_found_by_name_and_hash(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    picture = tmp_path / "pictures" / "a.png"
    (tmp_path / "dog.wav").write_bytes(b"another dog")
    found = find_ingredients(picture, RECIPE, NAMED_NOTHING)
    assert found["audio"] == [str(TOY_SAMPLES / "dog.wav")] and found["encoder"] == ["gemini"]
    assert str(TOY_SAMPLES / "dog.wav") in capsys.readouterr().err
    other = dataclasses.replace(RECIPE, sounds=(SoundRecord("dog.wav", "12"),))
    with pytest.raises(ValueError, match=r"was made of another dog.wav \(SHA-256 12...\) than dog.wav"):
        find_ingredients(picture, other, NAMED_NOTHING)
    gone = dataclasses.replace(RECIPE, sounds=(SoundRecord("gone.wav", "12"),))
    with pytest.raises(FileNotFoundError, match="was made of gone.wav .* lies neither beside it nor in this folder"):
        find_ingredients(picture, gone, NAMED_NOTHING)
    with pytest.raises(ValueError, match="was made of an array"):
        find_ingredients(picture, dataclasses.replace(RECIPE, sounds=(SoundRecord(None, "12"),)), NAMED_NOTHING)


@pytest.mark.slow
def test_images_from_python_carry_their_recipe(tmp_path):
    encoder = encoders.create("chatgpt", width=24, depth=1, heads=2, mlp=8, rngs=nnx.Rngs(0))
    model = SoundToImage({"one": encoder}, models.stable_diffusion())
    options = {"steps": 2, "output_type": "pil", "seed": 4}
    dog, waves = model(["dog", "waves"], "at night", alpha=0.3, **options)
    save_png(waves, tmp_path / "waves.png")
    recipe = read_recipe(tmp_path / "waves.png")
    assert recipe.sounds == (SoundRecord("waves.wav", hash_file(TOY_SAMPLES / "waves.wav")),)
    assert (recipe.prompt, recipe.alpha, recipe.seed, recipe.steps, recipe.batch) == ("at night", 0.3, 4, 2, 2)
    assert (recipe.width, recipe.height) == waves.size and recipe.model.name is None
    first, second = model(random=2, **options)
    assert json.loads(second.info["jaxsd"])["number"] == 1
    several = model(["dog", "waves"], num_images_per_prompt=2, **options)
    records = [json.loads(image.info["jaxsd"]) for image in several]
    assert [(one["sounds"][0]["name"], one["number"]) for one in records] == [
        ("dog.wav", 0),
        ("dog.wav", 1),
        ("waves.wav", 0),
        ("waves.wav", 1),
    ]
    with pytest.raises(TypeError, match="SoundToImage takes no argument 'negative_prompt'; negative is its name here"):
        model("dog", negative_prompt="rain")
    assert "jaxsd" not in model("dog", steps=2, output_type="pil", latents=np.zeros((1, 8, 8, 4)))[0].info


def test_another_parameter_is_another_hash():
    encoder = encoders.create("chatgpt", width=24, depth=1, heads=2, mlp=8, rngs=nnx.Rngs(0))
    model = SoundToImage({"one": encoder}, models.stable_diffusion())
    (before,) = model.recipes()
    assert model.recipes() == [before]
    nnx.update(encoder, nnx.map_state(lambda _, value: value + 1, nnx.state(encoder)))
    (after,) = model.recipes()
    assert before.encoders != after.encoders and before.model == after.model


@pytest.fixture
def generate(tmp_path, monkeypatch, capsys):
    """What `generate.py` prints, word by word, in a folder with the sound mine.wav."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(TOY_SAMPLES / "bell.wav", tmp_path / "mine.wav")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["generate.py", *arguments])
        run_generate()
        return capsys.readouterr().out.split()

    return run


@pytest.mark.slow
def test_a_recipe_makes_the_same_file_again(tmp_path, generate):
    images = generate("--audio", "mine.wav", "waves", "--count", "2", "--text", "at night", "--steps", "2")
    assert images == ["out/mine.png", "out/mine-2.png", "out/waves.png", "out/waves-2.png"]
    (again,) = generate("--recipe", "out/mine-2.png", "--out", "again")
    assert (tmp_path / again).read_bytes() == (tmp_path / "out/mine-2.png").read_bytes()
    assert "mine.wav" in "".join(generate("--show", "out/mine.png"))
    with pytest.raises(ValueError, match="was made of other content than the sounds waves.wav have"):
        generate("--recipe", "out/mine.png", "--audio", "waves")


@pytest.mark.long
def test_a_recipe_makes_the_same_file_of_every_mode_again(tmp_path, generate):
    (first,) = generate("--audio", "mine.wav", "--steps", "2")
    (other,) = generate("--recipe", first, "--seed", "9", "--out", "other")
    assert read_recipe(other).seed == 9
    mixed = ("--audio", "mine.wav", "waves", "--mix", "--sound-weights", "2", "1", "--image", first)
    (mix,) = generate(*mixed, "--encoder", "gemini", "grok", "--weights", "3", "1", "--steps", "3", "--out", "mix")
    (again,) = generate("--recipe", mix, "--image", first, "--out", "again")
    assert (tmp_path / again).read_bytes() == (tmp_path / mix).read_bytes()
    (random,) = generate("--random", "--steps", "2")
    (again,) = generate("--recipe", random, "--out", "again")
    assert (tmp_path / again).read_bytes() == (tmp_path / random).read_bytes()
    with pytest.raises(FileNotFoundError, match="was made of mine.png .* lies neither"):
        generate("--recipe", mix)
