"""The examples run as they stand."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "examples" / "sound_to_image.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert not [output for output in outputs if output["output_type"] == "stream"]  # warnings


def test_the_notebook_has_its_outputs():
    path = ROOT / "examples" / "sound_to_image.ipynb"
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [1, 2, 3, 4]
    assert path.stat().st_size < 300_000


@pytest.mark.slow
def test_stable_diffusion_draws_a_prompt(tmp_path):
    script = ROOT / "examples" / "stable_diffusion.py"
    subprocess.run([sys.executable, script, "a bell ringing"], cwd=tmp_path, env=ENVIRONMENT, check=True)
    assert (tmp_path / "stable_diffusion.png").is_file()
