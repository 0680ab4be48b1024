"""A study: what its inputs are, which images it has, that a pixel is the same however it is drawn, and its page."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from PIL import Image

import encoders
from jaxsd.clip.images import load_image
from jaxsd.generation import drawing
from jaxsd.generation.drawing import Drawing, write_images
from jaxsd.recipes.recipe import read_recipe
from jaxsd.runtime.bundled import TOY_SAMPLES
from jaxsd.runtime.files import lock_folder
from jaxsd.sound_to_image import SoundToImage, image_keys
from jaxsd.study import draw
from jaxsd.study.draw import Study
from jaxsd.study.inputs import read_study
from jaxsd.study.plan import parse_shard, study_conditionings, study_images
from jaxsd.study.run import run_study
from jaxsd.study.scores import Shown, score_study, score_tables
from tests.helpers import models

ROOT = Path(__file__).parents[2]
EVIL = '</script><img src=x onerror="alert(1)">&'


@pytest.fixture(scope="module")
def model():
    sizes = {"width": 24, "depth": 1, "heads": 2, "mlp": 8}
    both = {name: encoders.create("chatgpt", **sizes, rngs=nnx.Rngs(seed)) for seed, name in enumerate(("one", "two"))}
    return SoundToImage(both, models.stable_diffusion())


@pytest.fixture
def source(tmp_path):
    """A study of two sounds, one of them also with an image."""
    Image.new("RGB", (12, 9), "red").save(tmp_path / "red.png")
    quoted = EVIL.replace('"', '""')
    lines = ["audio,text,image,class", "dog,a dog,,dog", "dog,a dog,red.png,dog", f'bell,"{quoted}",,']
    (tmp_path / "study.csv").write_text("\n".join(lines))
    return tmp_path / "study.csv"


@pytest.fixture
def make(model, source, tmp_path, monkeypatch):
    """`make(folder)` gives the study in that folder, drawn three images at a time."""
    monkeypatch.setattr(drawing, "MOST_IMAGES", 3)
    conditionings = {"two": ["two"], "Average Everyone": ["one", "two"]}
    sampling = {"steps": 2, "guidance": 3.0}
    return lambda name: Study(tmp_path / name, read_study(source), model, conditionings, sampling)


def pixels(study: Study) -> dict[str, bytes]:
    images = {str(one.path): Image.open(study.folder / one.path) for one in study.images() if study.is_drawn(one)}
    return {path: image.tobytes() for path, image in images.items()}


def test_the_papers_study_has_as_many_images_as_the_paper_says(tmp_path):
    for name in ("sounds", "images"):
        (tmp_path / name).mkdir()
    for index in range(10):
        (tmp_path / "sounds" / f"{index}.wav").symlink_to(TOY_SAMPLES / "dog.wav")
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / f"{index}.png")
    lines = ["name,caption", *(f"{index},sound {index}" for index in range(10))]
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    inputs = read_study(tmp_path)
    assert len(inputs.pairs) == 110
    conditionings = study_conditionings(list(encoders.ENCODERS))
    assert list(conditionings)[5:] == ["Average Chatbots", "Average Everyone"]
    assert sorted(conditionings["Average Chatbots"]) == ["chatgpt", "deepseek", "gemini", "grok"]
    images = study_images(inputs, conditionings, copies=2)
    assert len(images) == 2 * (7 * 2 * 110 + 110 + 11)  # A and A&T of seven, T, and R, which hears nothing
    assert len({one.path for one in images}) == len(images)
    assert {one.mode for one in images} == {"A", "A&T", "A&I", "A&T&I", "T", "T&I", "R", "R&I"}


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "audio\ndog",
            "study.csv has no column text; allowed: audio, text, image, class, of which audio, text must",
        ),
        ("audio,text,picture\n", "study.csv has the columns audio, text, picture; allowed: audio, text, image, class"),
        ("audio,text\ndog,", "study.csv, line 2: allowed are a value for audio, text"),
        ("audio,text\ndog,a,b", "study.csv, line 2: .* no more values than columns"),
        ("audio,text\ndog,a\ndog,b", "line 3: .*dog.wav has another text or class than before"),
        ("audio,text\ndog,a\ndog,a", "line 3: this sound with this image is there already"),
        ("audio,text,image\ndog,a,nowhere.png", "nowhere.png"),
        ("audio,text\nnowhere,a", "nowhere: no such file, nor a sample sound"),
        ("audio,text\n", "study.csv has no inputs"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(tmp_path, text, message):
    path = tmp_path / "study.csv"
    path.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_study(path)


def test_a_sound_without_a_caption_is_named(tmp_path):
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds" / "dog.wav").symlink_to(TOY_SAMPLES / "dog.wav")
    messages = {"dogs,a": "names dogs, and .* has no sound of that name", "": "has no caption of dog, which"}
    for captions, message in messages.items():
        (tmp_path / "captions.csv").write_text(f"name,caption\n{captions}")
        with pytest.raises(ValueError, match=message):
            read_study(tmp_path)


@pytest.mark.parametrize("text", ["1", "0/2", "3/2", "a/b", "1/2/3", "-1/2"])
def test_a_shard_that_cannot_be_is_refused(text):
    with pytest.raises(ValueError, match="allowed: i/n with i from 1 to n"):
        parse_shard(text)
    assert parse_shard("2/3") == (2, 3)


@pytest.mark.long
def test_an_image_is_the_same_in_any_batch_and_as_generate_draws_it(make, model, tmp_path):
    whole, parts = make("whole"), make("parts")
    run_study(whole)
    run_study(parts, limit=4)
    assert len(pixels(parts)) == 4
    run_study(parts, shard=(2, 2))
    run_study(parts, shard=(1, 2))
    assert len(pixels(whole)) == len(whole.images()) and pixels(parts) == pixels(whole)
    assert not list(parts.folder.glob(".shard*"))

    dog, red = whole.inputs.sounds["dog"].clip[None], load_image(tmp_path / "red.png")
    alone = SoundToImage({"two": model.encoders["two"]}, model.pipe)
    sampling = {"steps": 2, "guidance": 3.0}
    for image, name in ((None, "a-t"), (red, "a-t-i-red")):
        conditioning = alone.encode(dog, ["a dog"])
        out = tmp_path / f"generate-{name}"
        paths = write_images(
            Drawing(model.pipe, conditioning, ["dog"], out, count=3, sampling=sampling | {"image": image})
        )
        for number in ("", "-2"):
            drawn = Image.open(whole.folder / "images" / "two" / "dog" / f"{name}{number}.png")
            assert drawn.tobytes() == Image.open(paths[bool(number)]).tobytes()
    random = [image for image in whole.images() if image.mode == "R"]
    recipe = read_recipe(whole.folder / "images" / "two" / "dog" / "a-t-i-red-2.png")
    assert (recipe.number, recipe.batch, recipe.prompt, recipe.sounds[0].name) == (1, 1, "a dog", "dog.wav")
    assert recipe.image and recipe.image.name == "red.png" and [one.name for one in recipe.encoders] == ["two"]

    conditioning = model.random(image_keys(0, range(3)))
    paths = write_images(Drawing(model.pipe, conditioning, ["random"], tmp_path / "random", count=3, sampling=sampling))
    assert pixels(whole)[str(random[1].path)] == Image.open(paths[1]).tobytes()


@pytest.mark.slow
def test_stops_cost_a_batch_each_and_leave_no_broken_file(make, monkeypatch):
    class Stopped(BaseException):
        pass

    whole, stopped = make("whole"), make("stopped")
    run_study(whole, limit=12)
    writes = []

    def write(image, part, path, real=draw._write_image):
        if len(writes) == moment:
            part.write_bytes(b"half")
            raise Stopped
        writes.append(path)
        real(image, part, path)

    for moment in (0, 1, 5, 9):
        with monkeypatch.context() as patch, pytest.raises(Stopped):
            patch.setattr(draw, "_write_image", write)
            run_study(stopped, limit=12)
        assert pixels(stopped).items() <= pixels(whole).items() and len(pixels(stopped)) == moment
    run_study(stopped, limit=12)
    assert pixels(stopped) == pixels(whole) and not list(stopped.folder.glob(".shard*"))


def test_another_study_in_the_folder_is_refused_and_nothing_is_written(make, tmp_path):
    study = make("out")
    assert run_study(study, limit=1, dry_run=True) is None
    assert not study.folder.exists()
    run_study(study, limit=1)
    other = Study(study.folder, study.inputs, study.model, study.conditionings, study.sampling, seed=1)
    with pytest.raises(ValueError, match="out holds a study of other seed; choose another --out"):
        run_study(other)
    with lock_folder(study.folder / ".shard-1-of-1"), pytest.raises(ValueError, match="is being filled by process"):
        run_study(study)
    (tmp_path / "foreign" / "images").mkdir(parents=True)
    with pytest.raises(ValueError, match="foreign holds images of something else"):
        run_study(make("foreign"))


@pytest.mark.slow
def test_an_image_is_scored_against_every_caption(make):
    study, clip = make("out"), models.clip()
    run_study(study, limit=17)
    shown = score_study(study.folder, study.inputs, study.images(), clip, lambda images: ["dog"] * len(images))
    assert score_study(study.folder, study.inputs, study.images(), clip, None)[0].similarity == shown[0].similarity
    for one in shown:
        vector = np.asarray(clip.embed_images([Image.open(study.folder / one.image.path)])[0])
        cosines = np.asarray(clip.embed_text([sound.caption for sound in study.inputs.sounds.values()])) @ vector
        own = cosines[list(study.inputs.sounds).index(one.sound)]
        assert one.similarity == pytest.approx(100 * own, abs=1e-3) and one.rank == 1 + (cosines > own).sum()
        assert one.judged == (True if one.sound == "dog" else None)
    random = [one for one in shown if one.image.mode == "R"]
    assert {one.sound for one in random} == {"dog", "bell"}  # they stand for every sound


def test_shares_and_their_intervals_are_over_sounds(make):
    study = make("out")
    images = [image for image in study.images() if (image.conditioning, image.mode) == ("two", "A")]
    shown = [Shown(image, image.sound or "", 20.0, 1.0 if image.sound == "dog" else 2.0) for image in images]
    scores, seen = score_tables(study.inputs, ["two"], shown)
    row = dict(zip(scores.head, scores.rows[0], strict=True))
    assert row["images"] == "4" and row["own caption nearest, %"].startswith("50 [9, 91]")  # two sounds, one seen
    assert list(seen.rows[0][:3]) == ["two, A", "2/2", "0/2"]


def test_the_page_needs_nothing_but_its_folder_and_escapes_what_it_shows(make):
    study = make("out")
    page = run_study(study, limit=20)
    assert page
    text = page.read_text()
    assert not re.search(r"https?://|//cdn|@import", text) and "<img src=x" not in text and "{{" not in text
    assert text.count("</script>") == 2
    data = json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[0])
    assert data["sounds"] == {"dog": "a dog", "bell": EVIL}
    entries = [
        entry
        for images in data["cells"].values()
        for conditionings in images.values()
        for modes in conditionings.values()
        for cell in modes.values()
        for entry in cell
    ]
    assert len({entry[0] for entry in entries}) == 20 and all((study.folder / entry[0]).is_file() for entry in entries)
    assert (study.folder / "sounds" / "dog.wav").is_file() and (study.folder / "inputs" / "red.png").is_file()
    assert f"{len(study.images()) - 20:,} images" in text


@pytest.mark.long
def test_kills_at_ten_moments(tmp_path):
    """`kill -9` of generate.py --study at ten moments; the study is finished to the same bytes."""
    (tmp_path / "study.csv").write_text("audio,text\ndog,a dog\nwaves,waves\nbell,a bell\n")
    arguments = ["generate.py", "--study", str(tmp_path / "study.csv"), "--encoder", "chatgpt", "grok", "--steps", "2"]

    def start(out: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, *arguments, "--out", str(tmp_path / out)], cwd=ROOT)

    def drawn(out: str) -> dict[str, bytes]:
        found = sorted((tmp_path / out).rglob("images/**/*.png"))
        return {str(path.relative_to(tmp_path / out)): Image.open(path).tobytes() for path in found}

    assert start("whole").wait() == 0
    expected, chance = drawn("whole"), np.random.default_rng(0)
    for moment in range(10):
        process = start("killed")
        target = moment * len(expected) // 10
        while process.poll() is None and len(list((tmp_path / "killed").rglob("images/**/*.png"))) <= target:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert drawn("killed").items() <= expected.items()
        if moment % 3 == 2:  # begin again, so that there is something left to be killed at
            for path in list((tmp_path / "killed").rglob("images/**/*.png"))[1:]:
                path.unlink()
    assert start("killed").wait() == 0
    assert drawn("killed") == expected
