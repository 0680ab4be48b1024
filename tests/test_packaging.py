"""The wheel holds all that the commands need, and they work from an empty folder."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the installed wheel, as pip lays it out."""
    folder = tmp_path_factory.mktemp("wheel")
    source, site = folder / "source", folder / "site"
    kept = ("jaxsd", "encoders", "configs", "pyproject.toml", "README.md", "LICENSE")
    subprocess.run(["cp", "-r", *(ROOT / name for name in kept), _made(source)], check=True)  # building leaves files
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", folder, source]
    subprocess.run([*pip, *build], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", site, wheel], check=True, capture_output=True
    )
    return site


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def run(site, cwd, *arguments):
    environment = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, site / "bin" / "jaxsd", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def test_every_package_is_listed():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for name in ("encoders", "jaxsd") for path in (ROOT / name).rglob("*.py")}
    expected = {".".join(folder.relative_to(ROOT).parts) for folder in folders} | {"jaxsd.configs"}
    assert set(setuptools["packages"]) == expected


def test_the_package_is_the_wheels(site, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(site)}
    code = "import jaxsd, encoders; print(jaxsd.__file__, encoders.__file__, jaxsd.__version__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [str(site / "jaxsd/__init__.py"), str(site / "encoders/__init__.py"), "0.1.0"]
    assert (site / "jaxsd" / "py.typed").is_file() and (site / "encoders" / "py.typed").is_file()


def test_help_lists_the_commands(site, tmp_path):
    done = run(site, tmp_path, "--help")
    assert done.returncode == 0
    for command in ("generate", "train", "eval", "data", "convert", "encoders", "toy"):
        assert f"\n  {command} " in done.stdout
    assert run(site, tmp_path, "paint").returncode == 2


def test_a_sample_sound_becomes_an_image(site, tmp_path):
    done = run(site, tmp_path, "generate", "--audio", "dog.wav", "--steps", 2)
    assert done.stdout == "out/dog.png\n", done.stderr
    assert (tmp_path / "out" / "dog.png").is_file()


@pytest.mark.long
def test_training_on_the_toy_world_begins(site, tmp_path):
    sizes = {"data.train_size": 16, "data.held_out": 10, "batch_size": 4, "warmup": 0, "steps": 1}
    options = [f"--config.{key}={value}" for key, value in sizes.items()]
    done = run(site, tmp_path, "train", "--config", "toy.py:aligned", *options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "toy-aligned" / "encoder.json").is_file()


@pytest.mark.parametrize("command", ["generate", "train", "eval", "data", "convert", "encoders", "toy"])
def test_every_command_has_help_under_its_own_name(site, tmp_path, command):
    done = run(site, tmp_path, command, "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: jaxsd {command}" in done.stdout
