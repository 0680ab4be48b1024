"""A folder that a command fills is its own for as long as it lives: a second command is refused in one sentence."""

import pytest

from jaxsd.runtime.files import lock_folder

pytestmark = pytest.mark.slow

COMMANDS = {
    "train": ["train", "--config", "toy.py", "--config.steps=1", "--config.warmup=0"],
    "eval": ["eval", "gemini"],
    "prepare": ["data", "toy", "--size", "4", "--held-out", "4"],
    "demo": ["toy", "demo"],
    "toy train": ["toy", "train"],
    "reproduce": ["toy", "reproduce"],
    "recipes": ["toy", "recipes"],
    "questions": ["toy", "questions"],
    "arena": ["arena", "run", "--config", "toy.py", "--published", "human", "--config.steps=1", "--config.warmup=0"],
    "cut": ["data", "cut", "a.mp4", "--captions", "a.csv"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_second_command_is_refused(command, tmp_path, run_jaxsd):
    held = {"prepare": tmp_path / "out" / "train"}.get(command, tmp_path / "out")
    arguments = [*COMMANDS[command], "--out", tmp_path / "out"]
    if command == "train":
        arguments += [f"--config.data.folder={tmp_path / 'data'}"]
    if command == "cut":
        (tmp_path / "a.mp4").touch()
        (tmp_path / "a.csv").write_text("file,start,text\na.mp4,0,a dog\n")
    with lock_folder(held):
        status, _, printed = run_jaxsd(*arguments)
        assert {path.name for path in held.iterdir()} == {".lock"}
    assert not (tmp_path / "data").exists()
    assert status == 2, printed
    assert f"{held} is being filled by process" in printed.strip().splitlines()[-1] and "Traceback" not in printed
