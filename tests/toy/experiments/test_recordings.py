"""What an encoder hears, and the measuring of recordings."""

import csv
import shutil

import numpy as np
import pytest

from jaxsd.clip.pipeline import CLIP
from jaxsd.pretrained.weights import open_tensors
from jaxsd.runtime.bundled import TOY_CAPTIONS, TOY_SAMPLES, clip_source
from jaxsd.toy import world
from jaxsd.toy.experiments import recordings
from jaxsd.toy.hearing import describe_heard, hear, write_captions


@pytest.fixture(scope="module")
def captions() -> np.ndarray:
    return np.asarray(open_tensors([TOY_CAPTIONS])["embeddings"])


def embeddings_of(vectors: np.ndarray) -> np.ndarray:
    """Embeddings whose means are projected to these vectors."""
    projection = np.asarray(open_tensors([clip_source("toy") / "model.safetensors"])["text_projection.weight"])
    means = vectors @ np.linalg.pinv(projection.T.astype(np.float64))
    return np.repeat(means[:, None], 77, axis=1).astype(np.float32)


def test_the_nearest_caption_is_heard(captions):
    heard = hear(embeddings_of(3 * captions))
    assert [one.class_name for one in heard] == list(world.CLASSES)
    cosines = captions @ captions[2]
    shares = np.exp(cosines / 0.07)
    assert heard[2].cosine == pytest.approx(1, abs=1e-4)
    assert heard[2].share == pytest.approx(shares[2] / shares.sum(), abs=1e-3)


def test_what_is_between_all_is_like_none(captions):
    clear, unclear = describe_heard(embeddings_of(np.stack([captions[5], captions.mean(axis=0)])))
    assert clear.startswith("sounds like a dog barking (")
    assert unclear.startswith("sounds like none of them; the nearest is ")


def test_the_captions_are_those_of_the_bundled_clip(tmp_path, captions):
    write_captions(tmp_path / "captions.safetensors", CLIP.from_pretrained(clip_source("toy"), dtype=np.float32))
    written = np.asarray(open_tensors([tmp_path / "captions.safetensors"])["embeddings"])
    np.testing.assert_allclose(written, captions, atol=1e-5)


@pytest.mark.slow
def test_recordings_are_measured_by_class(tmp_path, monkeypatch):
    for name, sound in (("dog", "dog"), ("dog", "waves"), ("bell", "bell")):
        (tmp_path / "files" / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(TOY_SAMPLES / f"{sound}.wav", tmp_path / "files" / name)
    scenes = [
        next(one for one in world.scenes("test", 10) if one.class_name == name) for name in ("bell", "dog", "dog")
    ]
    drawn = world.images(scenes, workers=1).astype(np.float32) / 255
    monkeypatch.setattr(recordings, "draw_images", lambda *_, **__: drawn)
    page = recordings.measure_recordings(tmp_path / "files", tmp_path / "out", ["human"])
    with (tmp_path / "out" / "recordings.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["file"] for line in lines] == ["bell/bell.wav", "dog/dog.wav", "dog/waves.wav"]
    assert [line["heard"] for line in lines] == ["bell", "dog", "waves"]
    assert [line["drawn"] for line in lines] == ["bell", "dog", "dog"]
    text = page.read_text()
    assert "| dog | 2 | 50 % [" in text and "| mean of the classes |  | 75 % |" in text
    assert (tmp_path / "out" / "recordings.png").is_file()


def test_folders_of_recordings_are_classes(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder"):
        recordings.find_recordings(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no sound"):
        recordings.find_recordings(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(ValueError, match="cat"):
        recordings.find_recordings(tmp_path)
