"""Disks that are full or read-only, and files that may not be read: one sentence names the file, nothing is lost."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import encoders
from jaxsd.audio import write_wav
from jaxsd.data.columns import write_columns
from jaxsd.data.cut import CutOptions, cut_videos
from jaxsd.pretrained.weights import write_safetensors
from jaxsd.runtime.bundled import TOY_ENCODERS
from jaxsd.runtime.cli import error_message
from jaxsd.runtime.files import lock_folder, replacing, write_json
from jaxsd.toy import world
from jaxsd.toy.maker import make_dataset
from jaxsd.training.checkpoints import Checkpoints
from tests.helpers.data_files import write_files
from tests.helpers.videos import write_video

ROOT = Path(__file__).parents[1]
NOISE = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)


@pytest.fixture
def disk(tmp_path):
    """A disk of its own of 4 MB, and a function that leaves it so many bytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")

    def leave(size: int):
        free = shutil.disk_usage(folder).free
        if free > size:
            (folder / "ballast").write_bytes(bytes(free - size))

    yield folder, leave
    subprocess.run(["umount", "--lazy", folder], check=True)


def save_image(path: Path):
    with replacing(path) as part:
        Image.fromarray(NOISE).save(part)


def lock(folder: Path):
    with lock_folder(folder):
        pass


FILES = {
    "a.json": lambda path: write_json(path, {"a": "b" * 50_000}),
    "a.png": save_image,
    "a.safetensors": lambda path: write_safetensors({"a": np.zeros(50_000, np.float32)}, path),
}
FOLDERS = {
    "model.safetensors": lambda folder: encoders.save(encoders.create("human", width=32, rngs=nnx.Rngs(0)), folder),
    "a.npy": lambda folder: write_columns(folder, {"a": np.ones(50_000, np.float32)}, {}),
    ".lock": lock,
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("free", [0, 8_192])
@pytest.mark.parametrize("name", FILES)
def test_a_full_disk_leaves_the_old_file(disk, name, free):
    folder, leave = disk
    (folder / name).write_text("old")
    leave(free)
    before = contents(folder)
    with pytest.raises(OSError) as caught:
        FILES[name](folder / name)
    assert str(folder / name) in (message := error_message(caught.value)) and "No space left on device" in message
    assert contents(folder) == before


@pytest.mark.parametrize("name", FOLDERS)
def test_a_full_disk_is_named_with_the_file_of_a_folder(disk, name):
    folder, leave = disk
    leave(0)
    with pytest.raises(OSError) as caught:
        FOLDERS[name](folder)
    assert error_message(caught.value) == f"{folder / name}: No space left on device"


def test_files_of_the_toy_world_are_all_there_or_none(disk):
    folder, leave = disk
    leave(60_000)
    before = contents(folder)
    with pytest.raises(OSError, match="No space left on device"):
        world.write_files(folder / "clips", 4)
    assert contents(folder) == before
    with pytest.raises(OSError, match=r"No space left on device: .*a\.wav"):
        write_wav(folder / "a.wav", np.zeros(160_000, np.int16))


def test_a_full_disk_is_no_fault_of_a_video(disk):
    folder, leave = disk
    (folder / "videos").mkdir()
    write_video(folder / "videos" / "a.mp4", 3.0)
    (folder / "captions.csv").write_text("file,start,text\na.mp4,0,a dog\n")
    arguments = {"options": CutOptions(), "captions": str(folder / "captions.csv"), "workers": 0}
    leave(50_000)  # of a second's sound and its frame, 40,000 bytes
    with pytest.raises(OSError, match="No space left on device: .*clips"):
        cut_videos([folder / "videos"], folder / "out", **arguments)
    (folder / "ballast").unlink()
    assert cut_videos([folder / "videos"], folder / "out", **arguments).startswith("3 clips")


@pytest.mark.parametrize("free", [0, 100_000, 150_000, 200_000])
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_under_a_checkpoint_is_told_in_a_sentence_alone(disk, capfd, free):
    """Orbax's threads, some of which are writing when others fail, print nothing; the checkpoint before is whole."""
    folder, leave = disk
    rng = np.random.default_rng(0)
    state = {f"a{index}": jnp.asarray(rng.normal(size=(50, 100)), jnp.float32) for index in range(30)}
    with pytest.raises(OSError, match="no space left on the disk; the checkpoint of step 1 is whole"):
        with Checkpoints(folder / "run") as checkpoints:
            checkpoints.save(1, state)
            checkpoints.manager.wait_until_finished()
            leave(free)
            checkpoints.save(2, state)
    assert not [thread for thread in threading.enumerate() if type(thread).__module__.startswith("orbax")]
    assert capfd.readouterr().err == ""
    assert [path.name for path in (folder / "run").iterdir()] == ["1"]


def as_user() -> list[str]:
    """What goes before a command so that the permissions of files bind it, which is not so for root."""
    if os.geteuid():
        return []
    if not shutil.which("setpriv"):
        pytest.skip("without setpriv, root's commands may write anywhere")
    return ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]


READ = """
import sys
from pathlib import Path

import encoders
from jaxsd.audio import load_clip
from jaxsd.clip.images import load_image
from jaxsd.runtime.cli import USER_ERRORS, error_message
from jaxsd.config import load_config
from jaxsd.data.columns import open_columns
from jaxsd.data.layouts import read_source
from jaxsd.data.manifest import read_manifest
from jaxsd.runtime.files import read_json
from jaxsd.pretrained.weights import open_tensors

folder = Path(sys.argv[1])
for name, read in {
    "a.wav": load_clip,
    "a.png": load_image,
    "a.csv": read_manifest,
    "a.json": read_json,
    "a.safetensors": lambda path: open_tensors([path]),
    "encoder.json": lambda path: encoders.load(path.parent),
    "a.npy": lambda path: open_columns(path.parent),
    "a.tar": read_source,
    "closed/a.wav": load_clip,
    "closed": read_source,
    "closed/a.py": lambda path: load_config(str(path)),
}.items():
    try:
        print(name, "was read", read(folder / name))
    except USER_ERRORS as error:
        print(name, "|", error_message(error))
"""


def test_what_may_not_be_read_is_named(tmp_path):
    write_columns(tmp_path, {"a": np.ones(3, np.float32)}, {})
    names = ("a.wav", "a.png", "a.csv", "a.json", "a.safetensors", "encoder.json", "a.npy", "a.tar")
    for name in names:
        (tmp_path / name).write_text("{}")
        (tmp_path / name).chmod(0)
    (tmp_path / "closed").mkdir(mode=0)
    done = subprocess.run(
        [*as_user(), sys.executable, "-c", READ, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(" | ") for line in done.stdout.splitlines())
    assert lines.keys() == {*names, "closed", "closed/a.wav", "closed/a.py"}, done.stdout
    for name, message in lines.items():
        assert str(tmp_path / name) in message and "ermission denied" in message, (name, message)


HOMELESS = """
import pwd
import sys

def no_entry(uid):
    raise KeyError(uid)

pwd.getpwuid = no_entry
import jaxsd, jax

assert jax.config.jax_compilation_cache_dir is None
from jaxsd.pretrained.hub import fetch

try:
    fetch("owner/model", ["*.json"])
except FileNotFoundError as error:
    print(error)
from jaxsd.commands import main

sys.argv = ["jaxsd", "generate", "--help"]
main()
"""


def test_a_user_without_a_home_folder(tmp_path):
    without = ("HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "JAX_COMPILATION_CACHE_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in without}
    arguments = [sys.executable, "-c", HOMELESS]
    done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert done.stdout.startswith("owner/model cannot be downloaded: there is no home folder to keep it in; HF_HOME")
    assert "--audio" in done.stdout


# --- commands -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A manifest and a data set of the toy world."""
    folder = tmp_path_factory.mktemp("source")
    write_files(folder / "files", 24, 0.0)
    make_dataset(folder / "data", {"train": 16, "validation": 8, "test": 8})
    return folder


def command(name: str, source: Path, out: Path) -> list[str]:
    training = {"steps": 2, "warmup": 0, "batch_size": 8, "save_every": 1, "sample_images": 0}
    training |= {"data.folder": source / "data", "data.train_size": 16, "data.held_out": 8}
    commands = {
        "prepare": ["-m", "jaxsd.data", "prepare", source / "files" / "manifest.csv", "--clip", "toy"],
        "data toy": ["-m", "jaxsd.data", "toy", "--size", "4", "--held-out", "4"],
        "train": ["train.py", "--config", "toy.py", *(f"--config.{key}={value}" for key, value in training.items())],
        "eval": ["eval.py", "gemini", "--data", source / "data", "--repeats", "0", "--pictures", "0"],
        "generate": ["generate.py", "--audio", "dog", "--steps", "1", "--overwrite"],
        "convert": ["-m", "jaxsd.convert", TOY_ENCODERS / "gemini"],
        "toy files": ["-m", "jaxsd.toy", "files", "--size", "2"],
        "toy sheet": ["-m", "jaxsd.toy", "sheet"],
    }
    out = out.with_suffix({"convert": ".safetensors", "toy sheet": ".png"}.get(name, ""))
    return [sys.executable, *map(str, commands[name]), "--out", str(out)]


COMMANDS = ("prepare", "data toy", "train", "eval", "generate", "convert", "toy files", "toy sheet")


def refuse(arguments: list[str], named: Path, reason: str, **options):
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, **options)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert str(named) in last and reason in last.lower(), last


@pytest.mark.long
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_on_a_full_disk_ends_in_one_sentence(name, source, disk):
    folder, leave = disk
    leave(0)
    refuse(command(name, source, folder / "out"), folder / "out", "no space left on")
    left = [path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".npy"]
    assert left == ["ballast"]  # columns without a dataset.json are unfinished


@pytest.mark.long
@pytest.mark.parametrize("name", ["train", "eval", "generate"])
def test_data_and_caches_may_be_read_only(name, source, tmp_path):
    """What is read may lie on a disk that is read-only, and a cache that cannot be written is done without."""
    data, caches = shutil.copytree(source / "data", tmp_path / "source" / "data"), tmp_path / "caches"
    caches.mkdir()
    for path in (caches, data, *data.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    named = ("XDG_CACHE_HOME", "HF_HOME", "JAX_COMPILATION_CACHE_DIR")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}
    environment |= dict.fromkeys(named, str(caches / "new"))
    arguments = [*as_user(), *command(name, data.parent, tmp_path / "out")]
    done = subprocess.run(arguments, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert not list(caches.iterdir())


@pytest.mark.long
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_may_not_write_ends_in_one_sentence(name, source, tmp_path):
    tmp_path.chmod(0o555)
    refuse([*as_user(), *command(name, source, tmp_path / "out")], tmp_path, "permission denied")
    assert not list(tmp_path.iterdir())
