"""The measuring of recordings."""

import csv
import shutil

import numpy as np
import pytest

from jaxsd.runtime.bundled import TOY_SAMPLES
from jaxsd.toy import world
from jaxsd.toy.experiments import recordings


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
    assert "| dog | 2 | 50 [" in text and "| mean of the classes |  | 75 |" in text
    assert (tmp_path / "out" / "recordings.png").is_file()


def test_folders_of_recordings_are_classes(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no folder"):
        recordings.find_recordings(tmp_path / "none")
    with pytest.raises(ValueError, match="holds no sound"):
        recordings.find_recordings(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(ValueError, match="cat"):
        recordings.find_recordings(tmp_path)
