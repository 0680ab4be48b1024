"""The toy world: reproducible, balanced, truthfully captioned and audible."""

import csv
import hashlib
import wave
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxsd.runtime import bundled
from jaxsd.toy import world
from jaxsd.toy.world import examples
from jaxsd.toy.world.drawing import draw
from jaxsd.toy.world.palette import BACKGROUND_RGB, COLOR_RGB
from jaxsd.toy.world.synthesis import synthesize


def digest(example: world.Example) -> str:
    parts = example.audio.tobytes() + example.image.tobytes() + repr((example.caption, example.scene)).encode()
    return hashlib.sha256(parts).hexdigest()


def color_mask(image: np.ndarray, color: str) -> np.ndarray:
    """Pixels (height, width) that are of a color, up to rounding."""
    return np.abs(image.astype(int) - COLOR_RGB[color]).max(axis=-1) <= 6


def read_wav(path: Path) -> np.ndarray:
    with wave.open(str(path), "rb") as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, world.SAMPLE_RATE)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


@pytest.fixture(scope="module")
def scenes() -> list[world.Scene]:
    return world.scenes("test", 300)


@pytest.fixture(scope="module")
def captions() -> list[str]:
    return world.captions("train", 2000)


@pytest.fixture(scope="module")
def sounds() -> np.ndarray:
    return world.sounds("test", 100, workers=1)


@pytest.mark.parametrize("index", range(10))
def test_same_arguments_give_the_same_example(index: int) -> None:
    assert digest(world.example("train", index, seed=3)) == digest(world.example("train", index, seed=3))


@pytest.mark.parametrize(
    "split, expected", [("train", "f8784e67321964df 1e328cf379a93992"), ("test", "b6a07828b90a5aed 6c2137f63dcbade1")]
)
def test_images_and_captions_stay_what_they_were(split: str, expected: str) -> None:
    # Sounds may differ between processors by the last bit; the samples below stand for them.
    images, captions = world.images(world.scenes(split, 40)), "\n".join(world.captions(split, 40))
    assert expected.split() == [hashlib.sha256(data).hexdigest()[:16] for data in (images.tobytes(), captions.encode())]


def test_no_two_examples_of_any_split_or_seed_agree_in_any_part() -> None:
    examples = [world.example(split, i, seed) for split in world.WORLD_SPLITS for i in range(10) for seed in (0, 1)]
    assert len({example.audio.tobytes() for example in examples}) == len(examples)
    assert len({example.image.tobytes() for example in examples}) == len(examples)
    assert len({example.scene for example in examples}) == len(examples)


@pytest.mark.parametrize("split", world.WORLD_SPLITS)
def test_classes_are_balanced(split: str) -> None:
    assert Counter(scene.class_name for scene in world.scenes(split, 50)) == dict.fromkeys(world.CLASSES, 5)


def test_many_at_once_equal_one_by_one() -> None:
    one_by_one = [world.example("validation", i, seed=2) for i in range(10)]
    many = world.scenes("validation", 10, seed=2)
    assert many == [example.scene for example in one_by_one]
    assert world.captions("validation", 10, seed=2) == [example.caption for example in one_by_one]
    np.testing.assert_array_equal(world.images(many), [example.image for example in one_by_one])
    np.testing.assert_array_equal(world.sounds("validation", 10, seed=2), [example.audio for example in one_by_one])


def test_processes_keep_order(monkeypatch: pytest.MonkeyPatch, scenes: list[world.Scene]) -> None:
    monkeypatch.setattr(examples, "_SERIAL_LIMIT", 0)
    shared = world.images(scenes, workers=2)
    np.testing.assert_array_equal(shared, world.images(scenes, workers=1))


def test_a_folder_that_another_process_makes_meanwhile_is_left_as_it_is(tmp_path: Path) -> None:
    def write(part: Path) -> None:
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "theirs").touch()

    with pytest.raises(ValueError, match="new is there already; choose another folder"):
        examples._write_new_folder(tmp_path / "new", write)
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "theirs"]


def test_captions_are_short_lower_case_words_from_a_small_vocabulary(captions: list[str]) -> None:
    words = [caption.split() for caption in captions]
    assert max(map(len, words)) <= 16
    vocabulary = {word for caption in words for word in caption}
    assert all(word.isascii() and word.isalpha() and word.islower() for word in vocabulary)
    assert len(vocabulary) < 60


def test_captions_name_the_class_and_only_true_attributes(captions: list[str]) -> None:
    for caption, scene in zip(captions, world.scenes("train", len(captions)), strict=True):
        noun_and_action = world.class_caption(scene.class_name).removeprefix("an ").removeprefix("a ")
        assert noun_and_action in caption
        assert {color for color in world.COLORS if color in caption.split()} <= {scene.color}
        assert {side for side, phrase in world.SIDE_PHRASE.items() if phrase in caption} <= {scene.side}
        named = {background for background, phrase in world.BACKGROUND_PHRASE.items() if phrase in caption}
        assert named <= {scene.background}


def test_most_captions_name_every_attribute_and_some_none(captions: list[str]) -> None:
    phrases = [*world.SIDE_PHRASE.values(), *world.BACKGROUND_PHRASE.values()]
    counts = Counter(
        sum(phrase in caption for phrase in phrases) + sum(color in caption.split() for color in world.COLORS)
        for caption in captions
    )
    assert counts[3] / len(captions) == pytest.approx(0.60, abs=0.05)
    assert counts[0] / len(captions) == pytest.approx(0.15, abs=0.04)


def test_the_attributes_that_a_caption_names(scenes: list[world.Scene]) -> None:
    scene = replace(scenes[0], color="red", side="left", background="snow")
    assert world.named_attributes("a red dog barking on the left in the snow", scene) == set(world.ATTRIBUTES)
    assert world.named_attributes("a red dog barking at night", scene) == {"color"}
    assert not world.named_attributes(world.class_caption(scene.class_name), scene)


def test_class_captions_are_distinct_and_name_no_attribute() -> None:
    captions = {world.class_caption(name) for name in world.CLASSES}
    assert len(captions) == len(world.CLASSES)
    assert not {word for caption in captions for word in caption.split()} & set(world.COLORS)


def test_image_shape_and_type(scenes: list[world.Scene]) -> None:
    assert world.images(scenes[:3]).shape == (3, 64, 64, 3)
    assert world.images(scenes[:3]).dtype == np.uint8
    assert draw(scenes[0], resolution=32).shape == (32, 32, 3)


def test_the_named_color_dominates_the_others(scenes: list[world.Scene]) -> None:
    for scene in scenes:
        image = draw(scene)
        area = {color: int(color_mask(image, color).sum()) for color in world.COLORS}
        assert max(area, key=area.__getitem__) == scene.color, scene
        assert area[scene.color] >= 80, scene


def test_the_sky_tells_the_background(scenes: list[world.Scene]) -> None:
    for scene in scenes:
        np.testing.assert_array_equal(draw(scene)[0, [0, -1]].max(axis=0), BACKGROUND_RGB[scene.background][0])


@pytest.mark.parametrize("name", world.CLASSES)
def test_the_object_stands_on_the_named_side(name: str) -> None:
    for scene in [scene for scene in world.scenes("test", 100) if scene.class_name == name]:
        left, middle, right = (
            np.nonzero(color_mask(draw(replace(scene, side=side)), scene.color))[1].mean() for side in world.SIDES
        )
        assert left + 3 < middle < right - 3


def test_every_scene_number_shows() -> None:
    scene = world.Scene("bird", "red", "day", "middle", 0.9, 0.0, 0.0, 45.0, 0.2, False)
    changes = dict(
        size=1.0, dx=1.0, dy=1.0, horizon=47.0, phase=0.9, mirrored=True, class_name="dog", background="snow"
    )
    for name, value in changes.items():
        assert not np.array_equal(draw(scene), draw(replace(scene, **{name: value}))), name


def test_sounds_are_audible_and_not_clipped(sounds: np.ndarray) -> None:
    assert sounds.shape == (100, world.SAMPLE_RATE)
    assert sounds.dtype == np.int16
    peak = np.abs(sounds.astype(int)).max(axis=1)
    assert peak.min() > 0.04 * 32767
    assert (np.abs(sounds.astype(int)) >= 32767).sum() == 0
    # Ten milliseconds at a tenth of the peak is more than a stray click.
    assert (np.abs(sounds) > peak[:, None] / 10).sum(axis=1).min() > 0.010 * world.SAMPLE_RATE


def test_loudness_varies_widely(sounds: np.ndarray) -> None:
    peak = np.abs(sounds.astype(int)).max(axis=1)
    assert peak.max() > 8 * peak.min()


def test_classes_differ_under_the_same_random_numbers() -> None:
    clips = [synthesize(name, np.random.default_rng(5)) for name in world.CLASSES]
    assert len({clip.tobytes() for clip in clips}) == len(world.CLASSES)


def band_levels(sounds: np.ndarray) -> np.ndarray:
    """Mean and spread over time of the level in 16 bands: float (n, 32)."""
    frames = sounds.reshape(len(sounds), -1, 320) / 32768
    power = np.abs(np.fft.rfft(frames * np.hanning(320))) ** 2
    edges = np.unique(np.geomspace(1, 160, 17).round().astype(int))
    level = np.log(np.add.reduceat(power, edges[:-1], axis=-1) + 1e-8)
    level -= level.mean(axis=(1, 2), keepdims=True)
    return np.concatenate([level.mean(axis=1), level.std(axis=1)], axis=1)


def test_classes_can_be_told_apart_by_ear(sounds: np.ndarray) -> None:
    known, heard = band_levels(world.sounds("train", 300, workers=1)), band_levels(sounds)
    scale = known.std(axis=0)
    distance = np.abs(heard[:, None] / scale - known[None] / scale).sum(axis=-1)
    nearest = distance.argmin(axis=1) % len(world.CLASSES)
    assert np.mean(nearest == np.arange(len(sounds)) % len(world.CLASSES)) > 0.8


def test_shipped_samples_are_the_samples_split() -> None:
    assert {path.name for path in bundled.TOY_SAMPLES.iterdir()} == {f"{name}.wav" for name in world.CLASSES}
    for index, name in enumerate(world.CLASSES):
        shipped = read_wav(bundled.TOY_SAMPLES / f"{name}.wav").astype(int)
        made = world.example("samples", index).audio.astype(int)
        # Processors differ in the last bit of a sine, which may flip a rounding.
        assert np.abs(shipped - made).max() <= 1, name


def test_write_files_writes_sounds_images_and_captions(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    world.write_files(folder, 3)
    with (folder / "captions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["name"], line["caption"]) for line in lines] == [
        (f"{index:04}", caption) for index, caption in enumerate(world.captions("train", 3))
    ]
    example = world.example("train", 2)
    assert np.array_equal(np.asarray(Image.open(folder / "0002.png")), example.image)
    with wave.open(str(folder / "0002.wav")) as file:
        assert np.array_equal(np.frombuffer(file.readframes(20_000), "<i2"), example.audio)
    (tmp_path / "mine.txt").write_text("")
    for taken in (folder, tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(ValueError, match="choose another folder"):
            world.write_files(taken, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "mine.txt"]


def test_write_samples_writes_every_class(tmp_path: Path) -> None:
    world.write_samples(tmp_path)
    for index, name in enumerate(world.CLASSES):
        np.testing.assert_array_equal(read_wav(tmp_path / f"{name}.wav"), world.example("samples", index).audio)
