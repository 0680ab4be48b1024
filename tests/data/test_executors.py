"""Both executors make the same, whatever ends on the way. With Ray: -m long, where it is installed."""

import errno
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from jaxsd.data import executors
from jaxsd.data.executors import LocalExecutor, RayExecutor, Work, choose_executor
from tests.data.test_workers import rows_of
from tests.helpers.data_files import write_files
from tests.helpers.videos import write_video

ROWS = 1_000
WAIT = 900  # seconds


def items_of(part: int) -> list[list[int]]:
    return [[3 * part + index] for index in range(3)]


def fill_disk(items):
    raise OSError(errno.ENOSPC, "No space left on device", f"/full/{items[0]}")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def command(source: Path, out: Path, *flags: str) -> list[str]:
    arguments = [sys.executable, "-m", "jaxsd.data", "prepare", source, "--clip", "toy", "--out", out, *flags]
    return list(map(str, arguments))


def check_executor(executor):
    """Parts are made whole; of an item that ends its process that item alone is bad; an error is raised as it was."""
    work = Work(items_of, partial(rows_of, dies=(8,)), partial(rows_of, given_up=True))
    made = {part: examples for part, examples, _ in executor.run(work, range(4))}
    assert {part: one.columns["item"].tolist() for part, one in made.items()} == {
        part: list(range(3 * part, 3 * part + 3)) for part in range(4)
    }
    assert [part for part, one in made.items() if one.bad] == [2] and made[2].bad[2]["row"] == 8
    with pytest.raises(OSError, match="No space left") as raised:
        list(executor.run(Work(items_of, fill_disk, None), range(1)))
    assert raised.value.filename == "/full/0"


@pytest.mark.long
def test_processes_of_this_machine():
    check_executor(LocalExecutor(1))


def test_parts_come_whole_and_with_what_the_towers_make_of_them():
    work = Work(items_of, rows_of, None, lambda examples: {"double": 2 * examples.images})
    made = list(LocalExecutor(0).run(work, range(3)))
    assert [part for part, *_ in made] == [0, 1, 2]
    assert [features["double"].tolist() for *_, features in made] == [[0, 2, 4], [6, 8, 10], [12, 14, 16]]


def test_without_ray_or_a_cluster_it_is_one_sentence(monkeypatch):
    monkeypatch.setattr(executors, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="--ray needs Ray; install it with: pip install 'jaxsd.ray.'"):
        choose_executor(None, "local")
    with pytest.raises(ValueError, match="--ray 127.0.0.1:1: no Ray cluster answers there"):
        executors._check_answers("127.0.0.1:1")


@pytest.mark.long
def test_actors_of_ray():
    pytest.importorskip("ray", reason="Ray is not installed (the extra ray)")
    check_executor(RayExecutor("local"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A manifest, and what processes of this machine make of it."""
    folder = tmp_path_factory.mktemp("executors")
    manifest, _ = write_files(folder / "source", ROWS, 0.03)
    subprocess.run(command(manifest, folder / "local"), check=True)
    return manifest, folder / "local"


@contextmanager
def cluster(nodes: int):
    """A Ray cluster of several nodes, each a raylet with a CPU; the first is the head."""
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed (the extra ray)")
    made = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            made.add_node(num_cpus=1)
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()


def records(out: Path) -> int:
    return len(list(out.glob("*/records/[0-9]*.json")))


def wait_for_records(out: Path, count: int, process: subprocess.Popen):
    end = time.monotonic() + WAIT
    while records(out) < count:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)


def actors_of(node) -> list[int]:
    """The processes of the actors that make examples on a node."""
    (raylet,) = node.all_processes["raylet"]
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            named = b"_Maker" in (folder / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        if parent == raylet.process.pid and named:
            found.append(int(folder.name))
    return found


@pytest.mark.long
def test_a_killed_worker_and_a_lost_node_cost_nothing(source, tmp_path):
    manifest, whole = source
    with cluster(3) as nodes:
        process = subprocess.Popen(command(manifest, tmp_path / "out", "--ray", nodes.address))
        wait_for_records(tmp_path / "out", 1, process)
        head, *others = nodes.list_all_nodes()
        killed = [pid for node in (head, *others) for pid in actors_of(node)][:1]
        assert killed
        os.kill(killed[0], signal.SIGKILL)
        nodes.remove_node(others[0], allow_graceful=False)
        assert process.wait(WAIT) == 0
    assert contents(tmp_path / "out") == contents(whole)


@pytest.mark.long
def test_a_driver_that_is_killed_goes_on(source, tmp_path):
    manifest, whole = source
    with cluster(2) as nodes:
        arguments = command(manifest, tmp_path / "out", "--ray", nodes.address)
        process = subprocess.Popen(arguments)
        wait_for_records(tmp_path / "out", 2, process)
        process.kill()
        process.wait()
        assert 2 <= records(tmp_path / "out") and not list((tmp_path / "out").glob("*/dataset.json"))
        subprocess.run(arguments, check=True, timeout=WAIT)
    assert contents(tmp_path / "out") == contents(whole)


@pytest.mark.long
def test_videos_are_cut_on_ray_too(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed (the extra ray)")
    (tmp_path / "videos").mkdir()
    for number in range(3):
        write_video(tmp_path / f"videos/{number}.mp4", 3.0, seed=number)
    write_video(tmp_path / "videos/mute.mp4", 2.0, sound=False)
    (tmp_path / "captions.csv").write_text("file,text\n" + "".join(f"{number}.mp4,blocks\n" for number in range(3)))
    for name, flags in (("local", []), ("ray", ["--ray", "local"])):
        arguments = ["-m", "jaxsd.data", "cut", tmp_path / "videos", "--captions", tmp_path / "captions.csv"]
        subprocess.run([sys.executable, *arguments, "--out", tmp_path / name, *flags], check=True)
    assert contents(tmp_path / "local") == contents(tmp_path / "ray")
    assert "mute.mp4" in (tmp_path / "ray/bad.csv").read_text()
