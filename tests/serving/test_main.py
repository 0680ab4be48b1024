"""The server's folder and its flags; nothing here needs Gradio."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxsd.serving.__main__ import read_password

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from jaxsd.serving.__main__ import _working_folder
with _working_folder(7) as folder:
    print(*(path.name for path in folder.iterdir()), flush=True)
    (folder / "uploads").mkdir()
    (folder / "uploads" / "dog.wav").write_bytes(b"dog")
    time.sleep(float(sys.argv[1]))
    sys.exit()
"""


def hold(folder: Path, seconds: int) -> subprocess.Popen:
    """A server's folder in `folder`, held for so long; the first line of its output is what was in it."""
    command = [sys.executable, "-c", HOLD, str(seconds)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": folder},
    )


def uploads(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*.wav")]


def test_what_a_killed_server_leaves_is_gone_when_the_next_starts_and_ends(tmp_path):
    killed = hold(tmp_path, 60)
    assert killed.stdout is not None and killed.stdout.readline().split() == [".lock"]
    beside = hold(tmp_path, 0)
    assert "a server has the port 7 already" in beside.communicate()[1] and beside.returncode
    killed.kill()
    killed.wait()
    assert uploads(tmp_path) == ["dog.wav"]
    following = hold(tmp_path, 0)
    assert following.communicate()[0].split() == [".lock"] and following.returncode == 0
    assert not list(tmp_path.iterdir())


def test_a_folder_of_somebody_else_is_not_used(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"jaxsd-serve-{os.getuid()}-7").symlink_to(tmp_path / "elsewhere")
    refused = hold(tmp_path, 0)
    assert "belongs to somebody else" in refused.communicate()[1] and refused.returncode


def test_the_password_is_in_a_file(tmp_path):
    (tmp_path / "password").write_text("secret\n")
    (tmp_path / "empty").write_text("\n")
    assert read_password(f"me:{tmp_path}/password") == ("me", "secret")
    with pytest.raises(ValueError, match="--auth is 'me'; allowed: USER:FILE"):
        read_password("me")
    with pytest.raises(ValueError, match="empty is empty; it holds the password of me"):
        read_password(f"me:{tmp_path}/empty")
    with pytest.raises(FileNotFoundError):
        read_password(f"me:{tmp_path}/missing")


def test_without_gradio_a_line_says_what_to_install(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['gradio'] = None")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, ROOT / "generate.py", "--serve"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "pip install 'jaxsd[app]'" in done.stderr
