"""What a run says and refuses."""

import pytest

from jaxsd.config import load_config
from jaxsd.training.train import train
from jaxsd.training.validation import summarize_validation


def test_a_validation_is_one_line_of_a_terminal():
    figures = {"loss": 3.523, "chance": 11.043, "R@10_a2t": 1.0, "denoise": 0.0859, "denoise_unconditional": 0.0806}
    line = summarize_validation({f"validation_{name}": value for name, value in figures.items()}, count=250)
    assert line == "loss 3.52 (chance 3.68)  R@10 100.0 % (chance 4.0 %)  gain -0.0053"
    assert len(f"step 3600000  {line}") <= 80


def test_a_run_cannot_go_into_a_file(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    config = load_config("toy.py", [f"--config.data.folder={tmp_path / 'data'}"])
    with pytest.raises(ValueError, match="notes.txt is a file; --out is a folder"):
        train(config, tmp_path / "notes.txt")
    assert not (tmp_path / "data").exists()
