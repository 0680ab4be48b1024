"""A folder that is a Hugging Face Space on a CPU: the page, the package and the toy world's models."""

import re
import shutil
from importlib.metadata import requires
from pathlib import Path

import encoders
import jaxsd

README = """---
title: Sound to image
sdk: gradio
sdk_version: {gradio}
python_version: "3.12"
app_file: app.py
license: apache-2.0
pinned: false
---

The page of jaxsd, with the toy world's models. Start it elsewhere with `python app.py`.
"""
APP = '''"""The page, as a Space starts it."""

import sys

from jaxsd.runtime import cli
from jaxsd.serving.__main__ import main

if __name__ == "__main__":
    sys.argv[1:1] = ["--host", "0.0.0.0"]
    cli.run(main)
'''
GIT_ATTRIBUTES = "*.safetensors filter=lfs diff=lfs merge=lfs -text\n*.wav filter=lfs diff=lfs merge=lfs -text\n"


def write_space(folder: Path) -> list[Path]:
    """Write the folder, and return what was written. Raises ValueError where there is something in it already."""
    from gradio import __version__ as gradio

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already and not an empty folder; choose another")
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "README.md": README.format(gradio=gradio),
        "app.py": APP,
        "requirements.txt": "".join(f"{line}\n" for line in _requirements()),
        ".gitattributes": GIT_ATTRIBUTES,
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    packages = [Path(package.__path__[0]) for package in (jaxsd, encoders)]
    for package in packages:
        shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    return [folder / name for name in (*texts, *(package.name for package in packages))]


def _requirements() -> list[str]:
    """What the package needs, without its extras; Gradio is the Space's own."""
    return [line for line in requires("jaxsd") or [] if not re.search(r"\bextra\b", line)]
