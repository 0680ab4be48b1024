"""What the documents print is what there is: commands, Python, links."""

import argparse
import importlib
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jaxsd.config import load_run_config
from jaxsd.recipes.recipe import read_recipe

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
# In place of what a reader fills in.
PLACEHOLDERS = {"MANIFEST": "clips.csv", "HOST:PORT": "node0:1234", "N": "2", "I": "0", "...": "--config toy.py"}


class Parsed(Exception):
    """Raised in place of running a command whose flags are right."""


def commands(document: Path) -> list[str]:
    """The indented lines that run something, with those that a backslash continues."""
    text = re.sub(r"\\\n\s*", "", document.read_text())
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    return [line for line in lines if re.match(r"(make|python|jaxsd) ", line)]


CASES = [(document.name, line) for document in DOCUMENTS for line in commands(document)]


@pytest.fixture
def only_parsed(monkeypatch):
    """Parsers read their arguments and then raise Parsed with what they could not place."""
    parse = argparse.ArgumentParser.parse_known_args

    def parse_known_args(self, *arguments):
        found, rest = parse(self, *arguments)
        raise Parsed(found, rest)

    def parse_args(self, *arguments):
        found, rest = parse(self, *arguments)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        raise Parsed(found, rest)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_known_args)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.mark.parametrize(("document", "line"), CASES)
def test_a_printed_command_has_the_flags_that_it_takes(document, line, only_parsed, monkeypatch):
    words = shlex.split(" ".join(PLACEHOLDERS.get(word, word) for word in line.split()), comments=True)
    if words[0] == "make":
        targets = re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets)
        return
    if words[0] == "jaxsd":
        program, arguments = words[:2], words[2:]
    else:
        program, arguments = words[1:3] if words[1] == "-m" else words[1:2], words[1 + (words[1] == "-m") * 1 + 1 :]
    if program[-1].startswith("benchmarks."):
        pytest.importorskip("torch")
    if program == ["-m", "pytest"]:
        assert all((ROOT / word).exists() for word in arguments if word.startswith("tests/"))
        return
    monkeypatch.setattr(sys, "argv", [program[-1], *arguments])
    with pytest.raises(Parsed) as parsed:
        if program[0] == "jaxsd":
            from jaxsd.commands import COMMANDS

            module, _, function = COMMANDS[program[1]][1].partition(":")
            getattr(importlib.import_module(module), function)()
        elif program[0] == "-m":
            runpy.run_module(program[1], run_name="__main__", alter_sys=False)
        else:
            runpy.run_path(str(ROOT / program[0]), run_name="__main__")
    found, rest = parsed.value.args
    if hasattr(found, "config"):
        load_run_config(found.config, [word for word in rest if "my_encoder" not in word])
    elif rest:
        load_run_config("toy.py", rest)


def test_a_benchmark_without_torch_ends_in_one_sentence():
    script = "import sys; sys.modules['torch'] = None; import benchmarks.parity"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "this benchmark compares with PyTorch, and torch is not installed: pip install -e '.[parity]'\n"
    )
    for path in (ROOT / "benchmarks").glob("*.py"):
        direct = re.search(r"^\s*(import|from) (torch|diffusers)", path.read_text(), re.MULTILINE)
        assert not direct or path.stem == "parity", f"{path.name} imports {direct[2]}, not from benchmarks.parity"


def test_prose_is_wrapped():
    for document in DOCUMENTS:
        for number, line in enumerate(document.read_text().splitlines(), 1):
            assert len(line) <= 120 or line.startswith("|"), f"{document.name}:{number} has {len(line)} characters"


def test_commands_that_train_differ_in_their_folders():
    """Otherwise the second is refused by whoever runs the documents in their order."""
    folders = {}
    for _, line in CASES:
        if line.startswith("python train.py") and "..." not in line:
            words = line.split()
            config = words[words.index("--config") + 1]
            default = f"runs/{config.removesuffix('.py').replace('.py:', '-')}"
            folder = words[words.index("--out") + 1] if "--out" in words else default
            folders.setdefault(folder, set()).add(" ".join(sorted(words)))
    for document, line in CASES:
        if experiment := re.match(r"python -m jaxsd.toy (reproduce|recipes) .*--out (\S+)", line):
            folders.setdefault(experiment[2], set()).add(document)  # where several commands may go on with one
        assert "--section docs/" not in line, f"{document}: {line} rewrites a document"
    assert folders["runs/own-encoder"] and folders["runs/recipes-600"]
    assert not {folder: lines for folder, lines in folders.items() if len(lines) > 1}


def test_links_lead_somewhere():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.examples
def test_the_readmes_python_runs(tmp_path):
    (tmp_path / "jaxsd").symlink_to(ROOT / "jaxsd")  # its paths are those of a checkout
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", "\n".join(snippets)], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "dog.png").is_file() and (tmp_path / "red-dog.png").is_file()


@pytest.mark.examples
def test_the_way_from_a_folder_of_files_to_an_image(tmp_path, capfd):
    """The commands of a section of docs/data.md, in their order and as printed, but for fewer files and steps."""
    text = (ROOT / "docs" / "data.md").read_text()
    section = text.split("## From a folder of files to an image")[1].split("\n## ")[0]
    fewer = {"--size 400": "--size 60", "own.py ": "own.py --config.steps=8 --config.warmup=2 --config.eval_every=8 "}
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for line in re.findall(r"^    (python .*)$", section, re.MULTILINE):
        for printed, short in fewer.items():
            line = line.replace(printed, short)
        words = shlex.split(line)[1:]
        arguments = words if words[0].startswith("-") else [str(ROOT / words[0]), *words[1:]]
        subprocess.run([sys.executable, *arguments], cwd=tmp_path, env=environment, check=True)
    shown = capfd.readouterr().out
    assert "60 examples: 44 train, 8 validation, 8 test" in shown
    assert (tmp_path / shown.split()[-1]).is_file() and shown.split()[-1] == "out/0005.png"


@pytest.mark.examples
def test_the_readmes_images_are_drawn(tmp_path):
    """Every `python generate.py` of the README, in its order and as printed, but for fewer steps."""
    lines = [line for line in commands(ROOT / "README.md") if line.startswith("python generate.py")]
    assert len(lines) > 4
    for line in lines:
        _, script, *arguments = shlex.split(line)
        command = [sys.executable, ROOT / script, *arguments, "--steps", "4"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        assert all((tmp_path / path).is_file() for path in done.stdout.split())


@pytest.mark.examples
def test_the_commands_of_every_mode_draw(tmp_path):
    """The modes of docs/sounds.md as printed, but for fewer steps; each image says what it was made of."""
    text = (ROOT / "docs" / "sounds.md").read_text().split("## Mixes and the paper's modes")[1].split("\n## ")[0]
    modes = re.findall(r"^    (python .*?) +# (.*)$", text, re.MULTILINE)
    assert [mode for _, mode in modes][:8] == ["A", "A&T", "A&I", "A&T&I", "T", "T&I", "R", "R&I"]
    for line, mode in modes:
        _, script, *arguments = shlex.split(line)
        command = [sys.executable, ROOT / script, *arguments, "--steps", "4"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        recipe = read_recipe(tmp_path / done.stdout.strip())
        has = {"A": bool(recipe.sounds), "T": recipe.prompt is not None, "I": recipe.image is not None}
        has["R"] = recipe.random
        assert {part for part, there in has.items() if there} == set({"several": "A"}.get(mode[:7], mode)) - {"&"}
