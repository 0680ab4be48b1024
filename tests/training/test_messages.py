"""What a run says and refuses."""

import pytest

from jaxsd.config import load_config
from jaxsd.training.run_logger import RunLogger
from jaxsd.training.train import train
from jaxsd.training.validation import explain_validation, summarize_validation


def test_a_validation_is_one_line_of_a_terminal():
    figures = {"loss": 3.523, "chance": 11.043, "R@10_a2t": 1.0, "denoise": 0.0859, "denoise_unconditional": 0.0806}
    line = summarize_validation({f"validation_{name}": value for name, value in figures.items()}, count=250)
    assert line == "loss 3.52 (chance 3.68)  R@10 100.0 % (chance 4.0 %)  gain -0.0053"
    assert len(f"step 3600000  {line}") <= 80


def test_what_a_validation_shows_is_explained_on_the_terminal():
    explained = explain_validation(load_config("toy.py", []))
    assert all(f"  {word} " in explained for word in ("loss", "R@10", "gain")) and "(chance)" in explained
    assert max(map(len, explained.splitlines())) < 80
    assert "gain" not in explain_validation(load_config("toy.py:aligned", []))  # its line has none


@pytest.mark.parametrize(("seconds", "said"), [(30, None), (540, "9 min"), (9000, "2.5 hours")])
def test_the_length_of_a_training_is_said_once_it_is_known(seconds, said, tmp_path, capsys):
    options = {"log_every": 50, "save_every": 200, "eval_every": 600, "summarize": str, "wandb": False}
    logger = RunLogger(tmp_path, "train", 0, 3_600, **options)
    logger.progress.done = 10
    for known in (None, seconds, seconds):
        logger.progress.seconds_left = lambda known=known: known
        logger.say_duration()
    line = f"about {said} for the 3,590 steps to come, besides validations\n"
    assert capsys.readouterr().err == (line if said else "")


def test_a_run_cannot_go_into_a_file(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    config = load_config("toy.py", [f"--config.data.folder={tmp_path / 'data'}"])
    with pytest.raises(ValueError, match="notes.txt is a file; --out is a folder"):
        train(config, tmp_path / "notes.txt")
    assert not (tmp_path / "data").exists()
