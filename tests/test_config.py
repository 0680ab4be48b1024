"""Configs, their overrides, and how a script ends."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import encoders
from encoders.layers import abstract
from jaxsd import config as configs
from jaxsd.config import CONFIGS, DataConfig, LoRAConfig, TrainConfig, deep_merge, load_config, load_run_config
from jaxsd.runtime import cli

ROOT = Path(__file__).parents[1]
CONFIG = """
from jaxsd.config import DataConfig, TrainConfig

def get_config(recipe="paper"):
    return TrainConfig(
        encoder="gemini", encoder_config={"width": 3, "stride": 1}, data=DataConfig(folder=recipe), init="a",
    )
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(CONFIG)
    return path


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", configs.config_files())
def test_every_config_loads_from_anywhere_and_its_docstring_says_how(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_run_config(file) == load_run_config(file.removesuffix(".py"))
    assert f"\n\npython train.py --config {file}\n" in (CONFIGS / file).read_text()


def test_a_copy_of_a_config_loads_from_another_folder(tmp_path):
    (tmp_path / "mine.py").write_text((CONFIGS / "gemini.py").read_text())
    assert load_config(str(tmp_path / "mine.py:aligned")) == load_config("gemini:aligned")


@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_the_papers_configs_hold_the_papers_values(name):
    config = load_config(f"{name}:paper")
    assert (config.encoder, config.batch_size, config.epochs, config.learning_rate) == (name, 1151, 32, 1e-3)
    assert config.encoder_config == abstract(encoders.ENCODERS[name]).config


def test_an_existing_path_wins_over_a_name(config_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config_file.rename("gemini.py")
    assert load_config("gemini").init == "a"


def test_what_follows_the_colon_goes_to_get_config(config_file):
    assert load_config(f"{config_file}:aligned").data.folder == "aligned"
    assert load_config(str(config_file)).data.folder == "paper"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "gemni",
            "no config file 'gemni'; there are chatgpt.py, deepseek.py, gemini.py, grok.py, human.py, lora.py, own.py, "
            "toy.py",
        ),
        ("common.py", "holds no get_config()"),
        ("gemini:papre", "unknown recipe 'papre'; choose from paper, aligned, denoise, aligned+denoise"),
        ("toy:papre", "unknown recipe 'papre'; choose from toy, paper"),
    ],
)
def test_a_wrong_file_or_recipe_lists_what_there_is(spec, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_config(spec)


def test_a_config_is_a_train_config(tmp_path):
    path = tmp_path / "plain.py"
    path.write_text("def get_config(recipe=''):\n    return {}\n")
    with pytest.raises(ValueError, match=r"plain\.py returns a dict; it must return a jaxsd\.config\.TrainConfig"):
        load_config(str(path))


# --- recipes and dictionaries ---------------------------------------------------------------------------------------


def test_a_change_of_one_loss_weight_leaves_the_others():
    weights = load_config("gemini:aligned").weights
    assert weights == {"contrastive": 1.0, "sequence": 1.0, "denoise": 0.0}
    base = {"weights": {"a": 1, "b": 2}, "seed": 0}
    assert deep_merge(base, {"weights": {"b": 3}}, {"seed": 1}) == {"weights": {"a": 1, "b": 3}, "seed": 1}
    assert base == {"weights": {"a": 1, "b": 2}, "seed": 0}


def test_the_config_of_a_lora_is_none_of_an_encoder():
    config = load_run_config("lora:sound", ["--config.rank=3"])
    assert isinstance(config, LoRAConfig) and (config.encoder, config.rank) == ("gemini", 3)
    with pytest.raises(ValueError, match="lora.py is the config of a LoRAConfig, which trains no encoder"):
        load_config("lora.py")


def test_a_config_comes_back_from_its_dictionary():
    config = load_config("toy:aligned", ["--config.encoder=human"])
    assert TrainConfig.from_dict(json.loads(config.to_json())) == config
    assert TrainConfig.from_dict({"encoder": "human", "encoder_config": {}}).data == DataConfig()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sed": 1}, "no config key 'sed'; did you mean 'seed'?"),
        ({"data": {"foldr": ""}}, "no config key 'data.foldr'; did you mean 'folder'?"),
        ({"seed": "0"}, "seed is '0'; it must be an int"),
        ({"seed": True}, "seed is True; it must be an int"),
        ({"weights": {"denoise": None}}, "weights.denoise is None; it must be a float"),
        ({"data": "data/avt"}, "data is 'data/avt'; it must be a mapping"),
    ],
)
def test_values_that_no_config_has_are_named(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TrainConfig.from_dict({"encoder": "human", "encoder_config": {}} | changes)
    with pytest.raises(ValueError, match="the config has no encoder_config"):
        TrainConfig.from_dict({"encoder": "human"})


# --- overrides ------------------------------------------------------------------------------------------------------


def value_at(config, key):
    for part in key.split("."):
        config = config[part] if isinstance(config, dict) else getattr(config, part)
    return config


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("steps", "64", 64),
        ("steps", "-1", -1),
        ("learning_rate", "2", 2.0),
        ("learning_rate", "1e-4", 1e-4),
        ("dropout", "False", False),
        ("init", "a=b, c", "a=b, c"),
        ("init", "", ""),
        ("data.folder", "1", "1"),
        ("data.train_size", "3", 3),
        ("weights.denoise", "1", 1.0),
        ("encoder_config.stride", "8", 8),
    ],
)
@pytest.mark.parametrize("separate", [False, True])
def test_a_value_is_read_as_the_type_of_its_key(config_file, key, text, value, separate):
    arguments = [f"--config.{key}", text] if separate else [f"--config.{key}={text}"]
    found = value_at(load_config(str(config_file), arguments), key)
    assert (found, type(found)) == (value, type(value))


def test_what_follows_from_an_overridden_value_follows(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from jaxsd.config import TrainConfig\n"
        "def get_config(recipe='', encoder='a'):\n"
        "    return TrainConfig(encoder, {'size': {'a': 1, 'b': 2}[encoder]}, init=recipe)\n"
    )
    for overrides, size in (["encoder=b"], 2), (["encoder_config.size=3", "encoder=b"], 3), ([], 1):
        found = load_config(f"{path}:x", [f"--config.{override}" for override in overrides])
        assert (found.init, found.encoder_config["size"]) == ("x", size)


@pytest.mark.parametrize("recipe", ["toy", "paper", "aligned", "denoise", "aligned+denoise"])
@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_the_toy_config_has_every_recipe_for_every_encoder(recipe, name):
    config = load_config(f"toy:{recipe}", [f"--config.encoder={name}"])
    assert (config.encoder, config.encoder_config["width"], config.data.folder) == (name, 128, "data/toy")
    assert "depth" in config.encoder_config or name == "human"


def test_the_last_override_counts(config_file):
    assert load_config(str(config_file), ["--config.steps=1", "--config.seed", "9", "--config.steps=2"]).steps == 2


def test_an_own_encoder_takes_any_size():
    overrides = [
        "encoder_config.width=64",
        "encoder_config.rates=(1, 2)",
        "encoder_config.mode=fast",
        "encoder=my.py:A",
    ]
    config = load_config("toy", [f"--config.{override}" for override in overrides])
    assert (config.encoder, config.encoder_config) == ("my.py:A", {"width": 64, "rates": (1, 2), "mode": "fast"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.sed=1"], "no config key 'sed'; did you mean 'seed'?"),
        (["--config.weights.denoize=1"], "did you mean 'weights.denoise'?"),
        (["--config.denoise=1"], "did you mean 'weights.denoise'?"),
        (["--config.encoder_config.widht=1"], "did you mean 'encoder_config.width'?"),
        (["--config.seed.x=1"], "no config key 'seed.x'"),
        (["--config.zzz=1"], "there are data.folder, "),
        (["--config.steps=1.5"], "steps must be an int, not '1.5'"),
        (["--config.learning_rate=fast"], "learning_rate must be a float, not 'fast'"),
        (["--config.dropout=1"], "dropout must be true or false, not '1'"),
        (["--config.encoder_config.width=a"], "encoder_config.width must be an int, not 'a'"),
        (["--config.data=avt"], "set one of data.folder, data.maker, data.train_size"),
        (["--config.init"], "--config.init needs a value"),
        (["--config.init", "--config.seed=1"], "--config.init needs a value"),
        (["--seed=1"], "unknown argument '--seed=1'; did you mean '--config.seed'?"),
    ],
)
def test_a_wrong_override_is_an_error_that_says_what_is_right(config_file, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_config(str(config_file), arguments)


def test_argparse_leaves_the_overrides(config_file):
    parser = argparse.ArgumentParser()
    configs.add_config_argument(parser)
    parser.add_argument("--out")
    command = f"--config {config_file} --config.learning_rate -2e-4 --out runs --config.steps=4"
    args, rest = parser.parse_known_args(command.split())
    config = load_config(args.config, rest)
    assert (args.out, config.learning_rate, config.steps) == ("runs", -2e-4, 4)


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
    monkeypatch.setattr(cli, "program", lambda: "train.py")
    monkeypatch.setattr(cli, "_watch_interrupts", lambda: None)
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as stop:
        cli.run(main)
    assert stop.value.code == status
    assert capsys.readouterr().err == f"train.py: {message}\n"


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli, "_watch_interrupts", lambda: None)
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 // 0)


def test_scripts_and_modules_are_called_by_their_names(tmp_path):
    (tmp_path / "pack").mkdir()
    for script in (tmp_path / "eval.py", tmp_path / "pack" / "__main__.py"):
        script.write_text("from jaxsd.runtime import cli\ncli.run(lambda: int('x'))\n")
    assert python("eval.py", cwd=tmp_path).stderr.startswith("eval.py: invalid literal")
    assert python("-m", "pack", cwd=tmp_path).stderr.startswith("python -m pack: invalid literal")


def test_config_and_cli_leave_jax_alone():
    imports = "import sys; from jaxsd import config; from jaxsd.runtime import cli"
    script = f"{imports}; config.load_config('gemini'); sys.exit('jax' in sys.modules)"
    assert python("-c", script).returncode == 0


class FakeJax:
    """Stands for a JAX that was imported before the script ran."""

    def __init__(self):
        self.config, self.updates, self.jax_compilation_cache_dir = self, {}, None

    def update(self, name, value):
        self.updates[name] = value


def test_compiled_programs_are_kept_in_the_users_cache(tmp_path):
    script = (
        "import jaxsd.clip, jax; print(jax.config.jax_compilation_cache_dir, jax.config.jax_enable_compilation_cache)"
    )
    folder = f"{tmp_path}/jaxsd/jax"
    assert python("-c", script, XDG_CACHE_HOME=str(tmp_path)).stdout == f"{folder} True\n"
    off = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    assert python("-c", script, XDG_CACHE_HOME=str(tmp_path), **off).stdout == f"{folder} False\n"


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
