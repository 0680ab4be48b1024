"""Configs, their overrides, and how a script ends."""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

import encoders
from jaxsd import cli
from jaxsd import config as settings
from jaxsd.config import ROOT, load_config

CONFIG = """
from ml_collections import ConfigDict

def get_config(recipe=""):
    return ConfigDict({
        "recipe": recipe, "size": 3, "rate": 0.5, "fast": False, "name": "a", "unset": None,
        "widths": (1, 2), "betas": (0.9, 0.99), "names": (), "optimizer": {"learning_rate": 1e-3, "kind": "adam"},
    })
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def config(config_file: Path) -> ConfigDict:
    return load_config(str(config_file))


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", settings.config_files())
def test_every_config_loads_from_anywhere_and_its_docstring_says_how(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(file)
    assert config.is_locked
    assert config == load_config(file.removesuffix(".py"))
    assert f"\n\npython train.py --config {file}\n" in (ROOT / "configs" / file).read_text()


@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_the_papers_configs_hold_the_papers_settings(name):
    config = load_config(f"{name}:paper")
    assert (config.encoder, config.batch_size, config.epochs, config.learning_rate) == (name, 1151, 32, 1e-3)
    defaults = encoders.ENCODERS[name].__init__.__kwdefaults__
    sizes = {key: value for key, value in defaults.items() if not key.endswith("dtype")}
    assert config.encoder_config.to_dict() == sizes


def test_an_existing_path_wins_over_a_name(config_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config_file.rename("gemini.py")
    assert load_config("gemini").name == "a"


def test_what_follows_the_colon_goes_to_get_config(config_file):
    assert load_config(f"{config_file}:aligned").recipe == "aligned"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gemni", "no config file 'gemni'; there are chatgpt.py, deepseek.py, gemini.py, grok.py, human.py, toy.py"),
        ("common.py", "holds no get_config()"),
        ("gemini:papre", "unknown recipe 'papre'; choose from paper, aligned, denoise, aligned+denoise"),
        ("toy:papre", "unknown recipe 'papre'; choose from toy, paper"),
    ],
)
def test_a_wrong_file_or_recipe_lists_what_there_is(spec, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_config(spec)


def test_a_config_is_a_config_dict(tmp_path):
    path = tmp_path / "plain.py"
    path.write_text("def get_config(recipe=''):\n    return {}\n")
    with pytest.raises(ValueError, match=r"plain\.py gives a dict; it must give a ConfigDict"):
        load_config(str(path))


# --- overrides ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("size", "64", 64),
        ("size", "-1", -1),
        ("rate", "2", 2.0),
        ("rate", "1e-4", 1e-4),
        ("fast", "True", True),
        ("name", "a=b, c", "a=b, c"),
        ("name", "", ""),
        ("widths", "3", (3,)),
        ("widths", "(3, 4,)", (3, 4)),
        ("betas", "1,0.5", (1.0, 0.5)),
        ("names", "('x', y)", ("x", "y")),
        ("optimizer.learning_rate", "1", 1.0),
    ],
)
@pytest.mark.parametrize("separate", [False, True])
def test_a_value_is_read_as_the_type_it_replaces(config_file, key, text, value, separate):
    arguments = [f"--config.{key}", text] if separate else [f"--config.{key}={text}"]
    found = load_config(str(config_file), arguments)
    for part in key.split("."):
        found = found[part]
    assert (found, type(found)) == (value, type(value))


def test_what_follows_from_an_overridden_value_follows(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(recipe='', kind='a'):\n"
        "    return ConfigDict({'recipe': recipe, 'kind': kind, 'size': {'a': 1, 'b': 2}[kind]})\n"
    )
    for overrides, size in (["kind=b"], 2), (["size=3", "kind=b"], 3), ([], 1):
        found = load_config(f"{path}:x", [f"--config.{override}" for override in overrides])
        assert (found.recipe, found.size) == ("x", size)


@pytest.mark.parametrize("recipe", ["toy", "paper", "aligned", "denoise", "aligned+denoise"])
@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_the_toy_config_has_every_recipe_for_every_encoder(recipe, name):
    config = load_config(f"toy:{recipe}", [f"--config.encoder={name}"])
    assert (config.encoder, config.encoder_config.width, config.data.folder) == (name, 128, "data/toy")
    assert "depth" in config.encoder_config or name == "human"
    assert set(config) - {"data"} == set(load_config(f"{name}:{recipe if recipe != 'toy' else ''}")) - {"data"}


def test_the_last_override_counts(config_file):
    assert load_config(str(config_file), ["--config.size=1", "--config.rate", "9", "--config.size=2"]).size == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.siez=1"], "no config key 'siez'; did you mean 'size'?"),
        (["--config.optimizer.learning_rat=1"], "did you mean 'optimizer.learning_rate'?"),
        (["--config.learning_rate=1"], "did you mean 'optimizer.learning_rate'?"),
        (["--config.size.x=1"], "no config key 'size.x'"),
        (["--config.zzz=1"], "there are betas, "),
        (["--config.size=1.5"], "size must be an int, not '1.5'"),
        (["--config.rate=fast"], "rate must be a float, not 'fast'"),
        (["--config.fast=1"], "fast must be true or false, not '1'"),
        (["--config.widths=1,x"], "widths must be a tuple, each part an int, not '1,x'"),
        (["--config.unset=1"], "unset must be set in the config file, being a NoneType"),
        (["--config.optimizer=adam"], "set one of optimizer.kind, optimizer.learning_rate"),
        (["--config.name"], "--config.name needs a value"),
        (["--config.name", "--config.size=1"], "--config.name needs a value"),
        (["--size=1"], "unknown argument '--size=1'; did you mean '--config.size'?"),
    ],
)
def test_a_wrong_override_is_an_error_that_says_what_is_right(config_file, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_config(str(config_file), arguments)


def test_argparse_leaves_the_overrides(config_file):
    parser = argparse.ArgumentParser()
    settings.add_config_argument(parser)
    parser.add_argument("--out")
    command = f"--config {config_file} --config.rate -2e-4 --out runs --config.size=4"
    args, rest = parser.parse_known_args(command.split())
    config = load_config(args.config, rest)
    assert (args.out, config.rate, config.size) == ("runs", -2e-4, 4)


def test_a_config_takes_no_new_key(config):
    with pytest.raises((AttributeError, KeyError), match="siez"):
        config.siez = 1


# --- scripts --------------------------------------------------------------------------------------------------------


def python(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment = {**inherited, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


def open_missing():
    open("/nowhere/file")


def fail(error: BaseException):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "status", "message"),
    [
        (fail(ValueError("bad\n  value")), 2, "bad value"),
        (fail(FileNotFoundError("x.json: no such file")), 2, "x.json: no such file"),
        (open_missing, 2, "/nowhere/file: No such file or directory"),
        (fail(IsADirectoryError(21, "Is a directory", "out")), 2, "out: Is a directory"),
        (fail(PermissionError(13, "Permission denied", "out")), 2, "out: Permission denied"),
        (fail(FloatingPointError("step 3: loss is nan")), 1, "step 3: loss is nan"),
        (fail(KeyboardInterrupt()), 130, "interrupted"),
    ],
)
def test_a_mistake_is_one_line_and_a_status(main, status, message, monkeypatch, capsys):
    monkeypatch.setattr(cli, "keep_compiled", lambda: None)
    monkeypatch.setattr(cli, "program", lambda: "train.py")
    with pytest.raises(SystemExit) as stop:
        cli.run(main)
    assert stop.value.code == status
    assert capsys.readouterr().err == f"train.py: {message}\n"


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli, "keep_compiled", lambda: None)
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 // 0)


def test_scripts_and_modules_are_called_by_their_names(tmp_path):
    (tmp_path / "pack").mkdir()
    for script in (tmp_path / "eval.py", tmp_path / "pack" / "__main__.py"):
        script.write_text("from jaxsd import cli\ncli.run(lambda: int('x'))\n")
    assert python("eval.py", cwd=tmp_path).stderr.startswith("eval.py: invalid literal")
    assert python("-m", "pack", cwd=tmp_path).stderr.startswith("python -m pack: invalid literal")


def test_settings_and_cli_leave_jax_alone():
    script = "import sys; from jaxsd import cli, config; config.load_config('gemini'); sys.exit('jax' in sys.modules)"
    assert python("-c", script).returncode == 0


class FakeJax:
    """Stands for a JAX that was imported before the script ran."""

    def __init__(self):
        self.config, self.updates = self, {}

    def update(self, name, value):
        self.updates[name] = value


def test_compiled_programs_are_kept_in_the_users_cache(tmp_path):
    script = "from jaxsd import cli; cli.keep_compiled(); import jax; print(jax.config.jax_compilation_cache_dir)"
    assert python("-c", script, XDG_CACHE_HOME=str(tmp_path)).stdout == f"{tmp_path}/jaxsd/jax\n"


@pytest.mark.parametrize("folder", [None, "mine"])
def test_the_cache_of_the_environment_counts_also_where_jax_is_imported(folder, tmp_path, monkeypatch):
    fake = FakeJax()
    environment = {"XDG_CACHE_HOME": str(tmp_path)} | ({"JAX_COMPILATION_CACHE_DIR": folder} if folder else {})
    monkeypatch.setitem(sys.modules, "jax", fake)
    monkeypatch.setattr(os, "environ", environment)
    cli.keep_compiled()
    assert fake.updates.pop("jax_persistent_cache_min_compile_time_secs") < 1
    assert fake.updates == ({} if folder else {"jax_compilation_cache_dir": f"{tmp_path}/jaxsd/jax"})
    assert environment["JAX_COMPILATION_CACHE_DIR"] == (folder or f"{tmp_path}/jaxsd/jax")
