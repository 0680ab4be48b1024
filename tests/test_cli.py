"""The flags of a run by several processes."""

import argparse

import jax
import pytest

from jaxsd.cli import add_distributed_arguments, start_distributed

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
