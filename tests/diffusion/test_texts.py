"""How texts become hidden states: clip skip against diffusers, and weights against a literal computation."""

import math
import re
import sys

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from jaxsd.clip.weighting import parse_weights
from jaxsd.commands.generate import run_generate
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.recipes.recipe import read_json_recipe, read_recipe, recipe_json, web_ui_parameters
from jaxsd.recipes.remake import recipe_flags
from jaxsd.sound_to_image import SoundToImage
from tests.diffusion.test_textual_inversion import torch_file

TEXTS = ["a red dog on the left", ""]


@pytest.fixture(scope="module")
def loaded(folder):
    return StableDiffusion.from_pretrained(folder)


@pytest.fixture
def pipe(loaded):
    yield loaded
    loaded.clip_skip, loaded.weighted_prompts = 0, False
    loaded.textual_inversions.clear()


@pytest.mark.parametrize("skip", [0, 1])
def test_clip_skip_leaves_out_as_many_layers_as_in_diffusers(pipe, folder, skip):
    theirs = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    # diffusers looks for the final norm where transformers had it before 5.
    object.__setattr__(theirs.text_encoder, "text_model", theirs.text_encoder)
    plain = pipe.encode_text(TEXTS)
    pipe.clip_skip = skip
    with torch.no_grad():
        expected = [theirs.encode_prompt(text, "cpu", 1, False, clip_skip=skip or None)[0][0].numpy() for text in TEXTS]
    ours = pipe.encode_text(TEXTS)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    assert (np.abs(ours - plain).max() > 0.1) == (skip > 0)


@pytest.mark.parametrize("skip", [-1, 2])
def test_clip_skip_is_bounded(pipe, skip):
    pipe.clip_skip = skip
    with pytest.raises(ValueError, match=f"clip_skip is {skip}; allowed: 0 to 1, layers that are left out"):
        pipe.encode_text("a")
    with pytest.raises(TypeError, match="no argument 'clip_skip'; pipe.clip_skip can be assigned"):
        pipe("a", clip_skip=skip)


UP, DOWN = 1.1, 1 / 1.1


@pytest.mark.parametrize(
    ("prompt", "fragments"),
    [
        ("normal text", [("normal text", 1)]),
        ("an (important) word", [("an ", 1), ("important", UP), (" word", 1)]),
        ("(unbalanced", [("unbalanced", UP)]),
        ("[un (balanced", [("un ", DOWN), ("balanced", DOWN * UP)]),
        (r"\(literal\] \\", [(r"(literal] " + "\\", 1)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", UP)]),
        ("a (red:1.3) [dog]", [("a ", 1), ("red", 1.3), (" ", 1), ("dog", DOWN)]),
        ("((red):0.5)", [("red", UP * 0.5)]),
        ("(red: -1 )", [("red", -1)]),
        ("a:1.2) b) c]", [("a:1.2) b) c]", 1)]),
        ("(10:30 a:b)", [("10:30 a:b", UP)]),
        ("[red:1.2]", [("red:1.2", DOWN)]),
        ("", [("", 1)]),
        ("()", [("", 1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1),
                ("house", 1.3 * UP * UP),
                (" ", UP),
                ("on", DOWN * UP),
                (" a ", UP),
                ("hill", 0.5 * UP),
                (", sun, ", UP),
                ("sky", UP**4),
                (".", UP),
            ],
        ),
    ],
)
def test_brackets_are_read_as_the_web_ui_reads_them(prompt, fragments):
    found = parse_weights(prompt)
    assert [text for text, _ in found] == [text for text, _ in fragments]
    assert np.allclose([weight for _, weight in found], [weight for _, weight in fragments], rtol=1e-12)


def test_a_weight_that_is_no_number():
    with pytest.raises(ValueError, match=re.escape("the prompt '(red:1.2.3)' has the weight 1.2.3; allowed: a number")):
        parse_weights("(red:1.2.3)")


def test_hidden_states_are_weighted_word_by_word(pipe):
    words = "a red dog on the left".split()
    plain = np.asarray(pipe.encode_text(" ".join(words)))[0].astype(np.float64)
    weights = np.ones(77)
    for position, weight in enumerate([1, 1.3, DOWN, DOWN * 0.5, 1, 1], 1):  # after the start
        weights[position] = weight
    expected = plain * weights[:, None]
    expected *= plain.sum() / math.fsum(expected.ravel())
    pipe.weighted_prompts = True
    weighted, unweighted = pipe.encode_text(["a (red:1.3) [dog (on:0.5)] the left", " ".join(words)])
    np.testing.assert_allclose(weighted, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(unweighted, plain.astype(np.float32))


def test_vectors_of_a_textual_inversion_have_the_weight_of_its_token(pipe, tmp_path):
    pipe.load_textual_inversion(torch_file(tmp_path))
    plain = np.asarray(pipe.encode_text("a <cat-toy> dog"))[0]
    pipe.weighted_prompts = True
    weighted = np.asarray(pipe.encode_text("a (<cat-toy>:2) dog"))[0]
    ratio = weighted / plain
    np.testing.assert_allclose(ratio / ratio[0, 0], np.repeat([1, 2, 1], [2, 3, 72])[:, None] * np.ones(24), rtol=1e-3)


def test_an_unweighted_text_has_the_same_bits_with_the_flag(pipe):
    texts = ["a red dog, on the left", "", "word " * 100, "tree 12: 3"]
    with pytest.warns(UserWarning, match="more than 77 tokens"):
        plain = pipe.encode_text(texts)
    pipe.weighted_prompts = True
    with pytest.warns(UserWarning, match="more than 77 tokens; not read: 'word"):
        np.testing.assert_array_equal(pipe.encode_text(texts), plain)


def test_recipes_say_how_texts_are_read(pipe):
    pipe.clip_skip, pipe.weighted_prompts = 1, True
    (recipe,) = SoundToImage({}, pipe).recipes(prompts=["a (dog)"])
    assert read_json_recipe(recipe_json(recipe), "a.png") == recipe
    assert "Clip skip: 2" in web_ui_parameters(recipe)
    flags = recipe_flags(recipe)
    assert (flags["clip_skip"], flags["weighted_prompts"]) == (1, True)


@pytest.mark.long
def test_the_command_draws_so_and_its_recipe_makes_it_again(tmp_path, monkeypatch, capsys, folder):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["generate.py", "--model", str(folder), *arguments])
        run_generate()
        return (tmp_path / capsys.readouterr().out.strip()).read_bytes()

    plain = run("--text", "a (red:1.5) dog", "--steps", "2")
    made = run("--text", "a (red:1.5) dog", "--steps", "2", "--weighted-prompts", "--clip-skip", "1", "--out", "made")
    (path,) = (tmp_path / "made").glob("*.png")
    assert read_recipe(path).clip_skip == 1 and read_recipe(path).weighted_prompts
    assert run("--recipe", str(path), "--out", "again") == made != plain
