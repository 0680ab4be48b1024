"""A folder that a command fills is its own for as long as it lives: a second command is refused in one sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

from jaxsd.files import lock_folder

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow

COMMANDS = {
    "train": ["train.py", "--config", "toy.py", "--config.steps=1", "--config.warmup=0", "--config.data.train_size=64"],
    "eval": ["eval.py", "gemini"],
    "prepare": ["-m", "jaxsd.data", "toy", "--size", "4", "--held-out", "4"],
    "demo": ["-m", "jaxsd.toy", "demo"],
    "toy train": ["-m", "jaxsd.toy", "train"],
    "reproduce": ["-m", "jaxsd.toy", "reproduce"],
    "recipes": ["-m", "jaxsd.toy", "recipes"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_second_command_is_refused(command, tmp_path):
    held = {"prepare": tmp_path / "out" / "train"}.get(command, tmp_path / "out")
    arguments = [*COMMANDS[command], "--out", str(tmp_path / "out")]
    if command == "train":
        data = tmp_path / "data"
        arguments += [f"--config.data.folder={data}", "--config.data.held_out=8", "--config.batch_size=8"]
    with lock_folder(held):
        done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
        assert {path.name for path in held.iterdir()} == {".lock"}
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert f"{held} is being filled by process" in last and "Traceback" not in done.stderr
