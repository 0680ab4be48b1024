"""A Space's folder stands alone: its app runs with the package that was copied into it."""

import os
import subprocess
import sys

import pytest

gradio = pytest.importorskip("gradio")

from jaxsd.serving.space import write_space  # noqa: E402

pytestmark = pytest.mark.browser


def test_the_app_of_a_space_runs_from_its_folder(tmp_path):
    folder = tmp_path / "space"
    assert all(path.exists() for path in write_space(folder))
    assert f"sdk_version: {gradio.__version__}" in (folder / "README.md").read_text()
    requirements = (folder / "requirements.txt").read_text().splitlines()
    assert any(line.startswith("jax>") for line in requirements) and not any("extra" in line for line in requirements)
    run = "sys.argv[1:] = ['--help']; runpy.run_path('app.py', run_name='__main__')"
    code = f"import jaxsd, runpy, sys; print(jaxsd.__file__); {run}"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(folder / "jaxsd" / "__init__.py") in done.stdout and "--root-path" in done.stdout


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ValueError, match="is there already and not an empty folder"):
        write_space(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
