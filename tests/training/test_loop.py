"""The training loop: it learns, resumes bit for bit whatever happens, and leaves what there is to see."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import types
from itertools import count

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from jaxsd.data.loader import shuffled
from jaxsd.training import run_logger, throughput
from jaxsd.training.loop import Interrupted, fit, init_state, make_step
from jaxsd.training.metric_writers import MetricsFile, read_metrics
from tests.helpers import curve
from tests.helpers.kill_and_resume import kill_and_resume
from tests.helpers.processes import environment_of_devices

pytestmark = pytest.mark.slow

OPTIMIZER = optax.adam(0.1)
DATA = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
ROWS = shuffled(len(DATA), 8, seed=0)


def loss_fn(params, frozen, batch, key):
    noise = 0.01 * jax.random.normal(key, params["w"].shape)
    error = batch @ (params["w"] + noise) - batch.sum(axis=1)
    return jnp.mean(error**2), {"first": params["w"][0]}


STEP = make_step(jax.value_and_grad(loss_fn, has_aux=True), OPTIMIZER, seed=0)


def train(folder, steps, batch=lambda i: DATA[ROWS(i)], step=STEP, **options):
    state = init_state({"w": jnp.zeros(3)}, OPTIMIZER)
    options = {"log_every": 1} | options
    return fit(folder, "test", state, step, lambda first: map(batch, count(first)), steps, **options)


@pytest.fixture(autouse=True)
def no_curves(request, monkeypatch):
    """Drawing takes longer than all else in most of these tests."""
    if "curves" not in request.node.name:
        monkeypatch.setattr(run_logger, "draw_curves", lambda *_: None)


def same(one, other) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


def logged(folder) -> list[tuple]:
    return [(line["step"], line["loss"]) for line in read_metrics(folder / "metrics.jsonl")]


def events(folder) -> list:
    """The TensorBoard events of a run, in the order that TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return [event for path in sorted(folder.glob("tensorboard/*")) for event in EventFileLoader(str(path)).Load()]


def test_it_learns_and_leaves_its_figures_and_curves(tmp_path):
    state = train(
        tmp_path, 200, evaluate=lambda state: {"validation_loss": float(state.params["w"][1])}, eval_every=100
    )
    np.testing.assert_allclose(state.params["w"], 1, atol=0.05)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 200 and losses[-1] < losses[0] / 100
    assert {"gradient_norm", "parameter_norm", "examples_per_second", "input_wait"} <= lines[50].keys()
    assert [line["step"] for line in lines if "validation_loss" in line] == [99, 199]
    assert Image.open(tmp_path / "curves.png").size[0] > 500
    in_tensorboard = {event.step: event.summary.value[0].tag for event in events(tmp_path) if event.summary.value}
    assert set(in_tensorboard) == set(range(200))


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = train(tmp_path / "whole", 30)
    train(tmp_path / "parts", 11, save_every=5)
    parts = train(tmp_path / "parts", 30, save_every=5)
    assert same(whole, parts)
    assert logged(tmp_path / "whole") == logged(tmp_path / "parts")
    starts = [event.step for event in events(tmp_path / "parts") if event.session_log.status == 1]
    assert starts == [0, 11]  # where TensorBoard cuts the earlier process's events
    exported = []
    assert same(parts, train(tmp_path / "parts", 30, export=exported.append))  # a finished run is only read
    assert len(exported) == 1 and same(exported[0], parts)  # and exported, as the first time, where that was removed


@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, number, status):
    def batch(step):
        if step == 4:
            os.kill(os.getpid(), number)
        return DATA[ROWS(step)]

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="stopped at step 5, .* run the same command to go on") as stop:
        train(tmp_path, 12, batch)
    assert stop.value.status == status
    assert signal.getsignal(signal.SIGTERM) == before
    assert same(train(tmp_path, 12), train(tmp_path / "whole", 12))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path):
    def batch(step):
        return np.full((8, 3), np.nan if step == 7 else 1.0, np.float32)

    with pytest.raises(FloatingPointError, match="step 7: loss is nan"):
        train(tmp_path, 20, batch, save_every=5, log_every=50)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["5"]


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    """The loss of the step is finite, its gradient is not."""

    def loss(params, frozen, batch, key):
        return jnp.sqrt(jnp.sum(params["w"]) * 0 + batch[0, 0]), {}

    def batch(step):
        return np.full((8, 3), 0.0 if step == 4 else 1.0, np.float32)

    with pytest.raises(FloatingPointError, match="step 4: gradient_norm is nan"):
        train(tmp_path, 20, batch, step=make_step(jax.value_and_grad(loss, has_aux=True), OPTIMIZER, 0), save_every=5)
    assert not list((tmp_path / "checkpoints").glob("5*"))


def test_a_broken_checkpoint_is_passed_over(tmp_path, capsys):
    whole = train(tmp_path / "whole", 12)
    train(tmp_path / "run", 10, save_every=5)
    checkpoints = tmp_path / "run" / "checkpoints"
    for path in checkpoints.glob("10/default/**/d/*"):
        path.write_bytes(path.read_bytes()[:10])
    assert same(whole, train(tmp_path / "run", 12))
    printed = capsys.readouterr().err
    assert re.search(r"checkpoints/10 cannot be read \(.*\); going on from step 5\n", printed)
    assert logged(tmp_path / "whole") == logged(tmp_path / "run")

    for path in checkpoints.glob("*/default/**/d/*"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="checkpoints/12 cannot be read .*, nor any checkpoint before it; remove"):
        train(tmp_path / "run", 20)
    assert {path.name for path in checkpoints.iterdir()} == {"5", "12"}


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """A folder on a small disk, how to fill it, how to free it; Orbax fails instead where no disk can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:

        def save(*_, **__):
            raise ValueError("RESOURCE_EXHAUSTED: Failed to write: No space left on device [os_error_code='28']")

        yield folder, lambda: monkeypatch.setattr(ocp.CheckpointManager, "save", save), monkeypatch.undo
    else:
        ballast = folder / "ballast"
        yield folder, lambda: ballast.write_bytes(bytes(shutil.disk_usage(folder).free)), ballast.unlink
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_said_in_one_sentence_and_leaves_the_checkpoint_before(disk):
    folder, fill, free = disk

    def batch(step):
        if step == 7:
            while not (folder / "run" / "checkpoints" / "5").exists():
                time.sleep(0.01)
            fill()
        return DATA[ROWS(step)]

    with pytest.raises(OSError, match=r"checkpoints: no space left on the disk; the checkpoint of step 5 is whole; "):
        train(folder / "run", 20, batch, save_every=5)
    free()
    assert same(train(folder / "run", 12), train(folder.parent / "whole", 12))


def test_a_line_cut_short_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in range(4):
        log = MetricsFile(path, step)
        log.write(step, {"loss": 1.0, "recall": float("nan")})
        log.close()
    with path.open("a") as file:
        file.write('{"step": 4, "ti')
    MetricsFile(path, 3).close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2] and lines[0]["recall"] is None


def test_the_share_of_time_spent_waiting_for_input(tmp_path):
    def batch(step):
        time.sleep(0.02)
        return DATA[:8]

    train(tmp_path, 22, batch, log_every=21)
    line = read_metrics(tmp_path / "metrics.jsonl")[-1]
    seconds = 21 * 8 / line["examples_per_second"]  # those after the first step
    assert 0.9 * 21 * 0.02 <= line["input_wait"] * seconds <= seconds


def test_mfu_is_flops_over_the_peak_of_the_device(tmp_path, monkeypatch):
    monkeypatch.setattr(throughput, "PEAKS", {"cpu": 1e9})
    train(tmp_path, 3)
    line = read_metrics(tmp_path / "metrics.jsonl")[-1]
    flops = line["mfu"] * 1e9 / line["examples_per_second"] * 8
    assert flops == pytest.approx(2 * 8 * 3 + 2 * 8 * 3)  # batch @ w, and its gradient


def test_weights_and_biases_goes_on_under_one_id(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="Weights & Biases is not installed; pip install wandb"):
        train(tmp_path, 2, wandb=True)

    runs, values = [], []

    def init(**options):
        runs.append(options)
        return types.SimpleNamespace(log=lambda metrics, step: values.append(step), finish=lambda: None)

    ids = (f"id{number}" for number in count())
    fake = types.SimpleNamespace(init=init, util=types.SimpleNamespace(generate_id=lambda: next(ids)))
    monkeypatch.setitem(sys.modules, "wandb", fake)
    train(tmp_path, 2, wandb=True)
    train(tmp_path, 4, wandb=True)
    assert values == [0, 1, 2, 3] and [run["id"] for run in runs] == ["id0", "id0"]


@pytest.mark.long
def test_one_device_eight_and_two_processes_give_the_same_curve(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    # A busy machine may let a collective wait longer than XLA has patience.
    patience = "--xla_cpu_collective_call_terminate_timeout_seconds=600"
    runs = {
        "eight": (environment_of_devices(8, patience), []),
        "two": (environment_of_devices(1), [coordinator, "2", "0"]),
        "two, process 1": (environment_of_devices(1), [coordinator, "2", "1"]),
    }
    processes = {}
    try:
        for name, (environment, arguments) in runs.items():
            command = [sys.executable, "-m", "tests.helpers.curve", tmp_path / name.split(",")[0], *arguments]
            with (tmp_path / f"{name}.txt").open("w") as printed:
                processes[name] = subprocess.Popen(command, env=environment, stderr=printed)
        curve.main(tmp_path / "one")
        for name, process in processes.items():
            assert process.wait() == 0, (tmp_path / f"{name}.txt").read_text()
    finally:
        for process in processes.values():
            process.kill()
    one, eight, two, stopped = (
        np.array(logged(tmp_path / name)) for name in ("one/curve", "eight/curve", "two/curve", "two/stopped")
    )
    assert len(one) == curve.STEPS and one[-1, 1] < one[0, 1] - 0.3
    for other in (eight, two, stopped):
        np.testing.assert_allclose(other, one, rtol=1e-5)


@pytest.mark.long
def test_killed_at_random_moments_it_ends_bit_equal(tmp_path):
    assert kill_and_resume(tmp_path, kills=5, seed=0)["kills"] == 5
