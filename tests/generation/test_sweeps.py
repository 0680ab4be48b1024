"""Sweeps: which values they have, what is refused, and that their images are those of single calls."""

import sys

import numpy as np
import pytest
from PIL import Image

from jaxsd.commands.generate import run_generate
from jaxsd.generation.strips import LABEL_HEIGHT, make_strip
from jaxsd.generation.sweeps import parse_sweep


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("alpha=0:1:0.1", (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)),
        ("guidance=7:1:-2", (7, 5, 3, 1)),
        ("strength=0.2:0.95:0.3", (0.2, 0.5, 0.8)),
        ("steps=5:20:5", (5, 10, 15, 20)),
    ],
)
def test_both_ends_are_in(text, values):
    assert parse_sweep(text).values == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed=0:1:1", "allowed: NAME=FIRST:LAST:STEP with NAME one of alpha, guidance, strength, steps"),
        ("alpha", "allowed: NAME=FIRST:LAST:STEP"),
        ("alpha=0:1", "allowed: NAME=FIRST:LAST:STEP"),
        ("alpha=0:1:0", "allowed: NAME=FIRST:LAST:STEP"),
        ("alpha=0:nan:1", "allowed: NAME=FIRST:LAST:STEP"),
        ("alpha=0:1e999:1", "allowed: NAME=FIRST:LAST:STEP"),
        ("alpha=1:0:0.1", "has 0 values; allowed: 2 to 100"),
        ("alpha=0:1:0.0001", "has 10,001 values; allowed: 2 to 100"),
        ("alpha=0:2:0.5", "has values that alpha cannot have; allowed: 0 to 1"),
        ("strength=0:1:0.5", "has values that strength cannot have; allowed: above 0, up to 1"),
        ("steps=1:3:0.5", "has values that steps cannot have; allowed: whole numbers from 1"),
    ],
)
def test_what_is_no_sweep_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_sweep(text)


def test_a_strip_has_its_images_under_their_labels():
    images = [Image.new("RGB", (70, 50), color) for color in ("red", "green", "blue")]
    strip = np.asarray(make_strip(images, ["a", "b", "c"], columns=2))
    for image, (top, left) in zip(images, ((0, 0), (0, 72), (68, 0)), strict=True):
        np.testing.assert_array_equal(strip[top + LABEL_HEIGHT :, left:][:50, :70], np.asarray(image))
        assert strip[top : top + LABEL_HEIGHT, left : left + 20].min() < 100  # ink
    assert strip.shape == (136, 144, 3)


def generate(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["generate.py", *map(str, arguments)])
    run_generate()
    return [np.asarray(Image.open(path)) for path in capsys.readouterr().out.split()]


@pytest.mark.slow
@pytest.mark.parametrize("sweep", ["alpha=0.3:1:0.7", pytest.param("guidance=1:3:2", marks=pytest.mark.long)])
def test_the_images_of_a_sweep_are_those_of_single_calls(tmp_path, monkeypatch, capsys, sweep):
    monkeypatch.chdir(tmp_path)
    name, values = parse_sweep(sweep).name, parse_sweep(sweep).values
    common = ("--audio", "dog", "--text", "at night", "--steps", 2)
    (strip,) = generate(monkeypatch, capsys, *common, "--sweep", sweep)
    for index, value in enumerate(values):
        (image,) = generate(monkeypatch, capsys, *common, f"--{name}", value)
        left = index * strip.shape[1] // len(values)
        np.testing.assert_array_equal(strip[LABEL_HEIGHT:, left:][:64, :64], image)
    (again,) = generate(monkeypatch, capsys, "--recipe", f"out/dog-{name}.png", "--out", "again")
    np.testing.assert_array_equal(again, strip)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--audio", "dog", "--sweep", "alpha=0:1:0.5"), "--sweep alpha is the share of the text beside sounds"),
        (("--audio", "dog", "--sweep", "strength=0.5:1:0.5"), "--sweep strength is for an image to start from"),
        (("--audio", "dog", "--text", "a", "--alpha", "1", "--sweep", "alpha=0:1:1"), "leave --alpha out"),
    ],
)
def test_sweeps_that_do_not_fit_are_refused(monkeypatch, capsys, arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(monkeypatch, capsys, *arguments)
