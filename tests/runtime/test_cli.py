"""How programs end, and the flags of a run by several processes."""

import argparse
import signal
import subprocess
import sys
import time

import jax
import pytest

from jaxsd.runtime import cli
from jaxsd.runtime.cli import add_distributed_arguments, start_distributed

SLURM = {"SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2"}


@pytest.fixture
def started(monkeypatch):
    """Calls `start_distributed` with flags; what it asks of JAX, nothing if it does not."""
    for name in SLURM:
        monkeypatch.delenv(name, raising=False)
    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *arguments: asked.append(arguments))

    def start(*flags):
        parser = argparse.ArgumentParser()
        add_distributed_arguments(parser)
        start_distributed(parser.parse_args(flags))
        return asked

    return start


def test_one_process_starts_nothing(started):
    assert started() == []


@pytest.mark.parametrize(("tasks", "asked"), [("1", []), ("2", [(None, None, None)])])
def test_a_step_of_several_tasks_needs_no_flags(started, monkeypatch, tasks, asked):
    for name, value in {**SLURM, "SLURM_NTASKS": tasks}.items():
        monkeypatch.setenv(name, value)
    assert started() == asked


def test_flags_are_passed_on(started):
    assert started("--coordinator", "node0:1234", "--num-processes", "2", "--process-id", "1") == [("node0:1234", 2, 1)]
    assert started("--coordinator", "auto")[1:] == [(None, None, None)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--process-id", "0"), "--coordinator, --num-processes and --process-id go together"),
        (("--coordinator", "node0:1234", "--num-processes", "2"), "go together"),
        (
            ("--coordinator", "node0", "--num-processes", "2", "--process-id", "0"),
            "'node0'; allowed: HOST:PORT, or auto",
        ),
        (("--coordinator", "a:1", "--num-processes", "2", "--process-id", "2"), "--process-id is 2; allowed: 0 to 1"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(started, flags, message):
    with pytest.raises(ValueError, match=message):
        started(*flags)


LONG_COMPUTATION = """
import jax
import jax.numpy as jnp
from jaxsd.runtime import cli

def main():
    compute = jax.jit(lambda x: jax.lax.fori_loop(0, 2**31 - 2, lambda i, x: jnp.sin(x), x))
    print("computing", flush=True)
    compute(jnp.ones(1000)).block_until_ready()
"""
WAITING_THREAD = """
import time
from concurrent.futures import ThreadPoolExecutor
from jaxsd.runtime import cli

def main():
    with ThreadPoolExecutor(1) as pool:
        print("computing", flush=True)
        pool.submit(time.sleep, 1000).result()
"""

WORKERS = """
import time
from jaxsd.data.workers import Workers
from jaxsd.runtime import cli

def main():
    with Workers(time.sleep, None, 2, 2) as workers:
        print("computing", flush=True)
        list(workers.map([1000.0] * 4))
"""


@pytest.mark.parametrize(
    ("program", "number", "status"),
    [
        (LONG_COMPUTATION, signal.SIGINT, 130),
        (WAITING_THREAD, signal.SIGINT, 130),
        (WORKERS, signal.SIGINT, 130),
        (WORKERS, signal.SIGTERM, 143),
    ],
)
def test_ctrl_c_and_sigterm_end_a_program_within_seconds_in_one_line(program, number, status):
    command = [sys.executable, "-c", program + "\ncli.run(main)"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "computing\n"
    time.sleep(0.5)
    process.send_signal(number)
    try:
        errors = process.communicate(timeout=20)[1]
    finally:
        process.kill()
    assert process.returncode == status and errors == "-c: interrupted\n"


def test_a_long_name_makes_no_long_message(capsys):
    def main():
        open("a" * 70_000)

    with pytest.raises(SystemExit) as ended:
        cli.run(main)
    assert ended.value.code == 2 and len(capsys.readouterr().err) < 1_100


def test_a_sheet_takes_the_next_free_name_also_where_another_process_takes_one_meanwhile(tmp_path, monkeypatch, capsys):
    from jaxsd.toy import __main__, demo

    def draw(path, sources):
        path.touch()
        (tmp_path / "sheet.png").touch()

    monkeypatch.setattr(demo, "sample_sheet", draw)
    monkeypatch.setattr(sys, "argv", ["toy", "sheet", "--out", str(tmp_path / "sheet.png")])
    __main__.main()
    assert capsys.readouterr().out.split() == [str(tmp_path / "sheet-2.png")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sheet-2.png", "sheet.png"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--autio", "dog"], "unrecognized arguments: --autio dog; did you mean --audio?"),
        (["dog"], "unrecognized arguments: dog; did you mean --audio dog?"),
        (["--pictures", "3"], "unrecognized arguments: --pictures 3; see generate --help"),
        (["--config", "toy.py"], "unrecognized arguments: --config toy.py; it is a flag of the commands that train"),
        (["--steps", "zero"], "argument --steps: invalid int value: 'zero'; see generate --help"),
    ],
)
def test_a_wrong_flag_is_told_in_a_sentence(flags, said, capsys):
    parser = cli.ArgumentParser(prog="generate", first="--audio")
    parser.add_argument("--audio")
    parser.add_argument("--steps", type=int)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(flags)
    assert ended.value.code == 2
    assert capsys.readouterr().err.strip().endswith(f": {said}")
