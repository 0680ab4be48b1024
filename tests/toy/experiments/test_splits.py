"""Videos of the toy world, and what the comparison of splits says."""

import numpy as np
import pytest

from jaxsd.data.twins import find_twins
from jaxsd.toy.experiments import splits
from jaxsd.toy.experiments.splits import BY_ROW, BY_VIDEO, RECALL_KEYS, compare_splits


def test_seconds_of_a_video_are_alike_and_not_the_same():
    first, second, other = (splits._second(video, number, 0) for video, number in ((3, 0), (3, 1), (13, 0)))
    assert first.caption == second.caption and first.scene.color == second.scene.color
    assert not np.array_equal(first.audio, second.audio) and not np.array_equal(first.image, second.image)
    assert not np.array_equal(first.image, other.image)
    columns = {"image": np.eye(2, dtype=np.float32), "audio": np.stack([first.audio, other.audio])}
    assert not find_twins(columns, {"image": columns["image"][:1], "audio": columns["audio"][:1]}, "test")["audio"][1]


def test_the_table_says_the_difference_with_its_interval(tmp_path):
    known, unknown = dict.fromkeys(RECALL_KEYS, 0.5), dict.fromkeys(RECALL_KEYS, 0.25)
    text = splits._describe_splits([{BY_ROW: known, BY_VIDEO: unknown}] * 2, "gemini", 100, 300)
    assert "| recall@1 a→t | 50.0 [43, 57] | 25.0 [20, 31] | +25.0 ± 9.2 |" in text
    with pytest.raises(ValueError, match="--videos is 5; allowed: from 11"):
        compare_splits(tmp_path, videos=5)
