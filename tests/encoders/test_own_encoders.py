"""Encoder classes in users' files: found by name, saved with their code's path and hash, run only if trusted."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import encoders
from encoders.registry import takes_rngs

SOURCE = """
import jax.numpy as jnp
from flax import nnx

class MyEncoder(nnx.Module):
    def __init__(self, *, width=16, groups=[200], rngs):
        self.width, self.groups = width, groups
        self.linear = nnx.Linear(200, width, rngs=rngs)
        self.dropout = nnx.Dropout(0.5)

    @property
    def config(self):
        return {"width": self.width, "groups": list(self.groups)}

    def __call__(self, pcm, *, rngs=None):
        x = (pcm / 32768)[:, :15400].reshape(-1, 77, 200)
        return self.dropout(self.linear(x), deterministic=rngs is None, rngs=rngs)
"""
PCM = np.random.default_rng(0).integers(-9000, 9000, (2, 16_000)).astype(np.int16)


@pytest.fixture
def code(tmp_path) -> Path:
    path = tmp_path / "my_encoder.py"
    path.write_text(SOURCE)
    return path


def make(path: Path, **sizes) -> nnx.Module:
    return encoders.create(f"{path}:MyEncoder", rngs=nnx.Rngs(0), **sizes)


def test_a_class_is_made_saved_and_loaded(code, tmp_path):
    encoder = make(code, width=24)
    encoders.save(encoder, tmp_path / "run", audio_pooling="last")
    described = json.loads((tmp_path / "run" / "encoder.json").read_text())
    assert (
        described == encoders.read_config(tmp_path / "run") == encoders.describe_encoder(encoder, audio_pooling="last")
    )
    assert described["encoder"] == "my_encoder.py:MyEncoder" and described["code"]["path"] == str(code)
    loaded = encoders.load(tmp_path / "run", trust_code=True)
    assert type(loaded) is type(encoder) and loaded.config == {"width": 24, "groups": [200]}
    np.testing.assert_array_equal(loaded(PCM), encoder(PCM))


def test_a_file_with_one_class_needs_no_class_name(code):
    assert type(encoders.create(str(code), rngs=nnx.Rngs(0))) is type(make(code))


def test_dropout_is_on_only_with_rngs(code):
    encoder = make(code)
    assert takes_rngs(encoder)
    np.testing.assert_array_equal(encoder(PCM), encoder(PCM))
    assert not np.array_equal(encoder(PCM), encoder(PCM, rngs=jax.random.key(0)))
    code.write_text(SOURCE.replace("pcm, *, rngs=None", "pcm").replace("rngs is None, rngs=rngs", "True"))
    assert not takes_rngs(make(code))


def test_dtype_reaches_only_a_class_that_takes_it(code):
    assert make(code, dtype=jnp.bfloat16)(PCM).dtype == jnp.float32
    code.write_text(
        SOURCE.replace("rngs):", "dtype=jnp.float32, rngs):").replace("width, rngs", "width, dtype=dtype, rngs")
    )
    assert make(code, dtype=jnp.bfloat16)(PCM).dtype == jnp.bfloat16


def test_code_is_run_only_if_it_is_trusted(code, tmp_path):
    marker = tmp_path / "marker"
    code.write_text(SOURCE + f"\nopen({str(marker)!r}, 'w')\n")
    encoders.save(make(code), tmp_path / "run")
    marker.unlink()
    load = f"import encoders; encoders.load({str(tmp_path / 'run')!r}"
    for arguments, error in (
        ("", "would run the code in .*my_encoder.py; .*--trust-code .*trust_code=True"),
        (", trust_code=True", None),
    ):
        done = subprocess.run([sys.executable, "-c", f"{load}{arguments})"], capture_output=True, text=True)
        assert (done.returncode == 0) is (error is None) and marker.exists() is (error is None)
    with pytest.raises(ValueError, match="run would run the code in .*my_encoder.py; .*--trust-code.*trust_code=True"):
        encoders.load(tmp_path / "run")


def test_code_that_is_missing_or_has_changed_is_one_sentence(code, tmp_path):
    encoders.save(make(code), tmp_path / "run")
    code.write_text(SOURCE + "\nraise RuntimeError('never run')\n")
    with pytest.raises(ValueError, match="run cannot be loaded: the code in .*my_encoder.py has changed: .*SHA-256"):
        encoders.load(tmp_path / "run", trust_code=True)
    code.unlink()
    with pytest.raises(FileNotFoundError, match="run needs .*, which is neither beside encoder.json nor at /"):
        encoders.load(tmp_path / "run", trust_code=True)


def test_a_copy_of_the_code_beside_encoder_json_is_taken(code, tmp_path):
    encoder = make(code)
    encoders.save(encoder, tmp_path / "run")
    shutil.copy(code, tmp_path / "run")
    code.unlink()
    (tmp_path / "run").rename(tmp_path / "moved")
    np.testing.assert_array_equal(encoders.load(tmp_path / "moved", trust_code=True)(PCM), encoder(PCM))
    (tmp_path / "moved" / "my_encoder.py").write_text("raise RuntimeError('never run')")
    with pytest.raises(ValueError, match="moved cannot be loaded: the code in .*moved/my_encoder.py has changed"):
        encoders.load(tmp_path / "moved", trust_code=True)


def test_code_that_changes_after_it_was_run_is_saved_as_it_was_run(code, tmp_path):
    encoder = make(code)
    code.write_text(SOURCE + "\nraise RuntimeError('never run')\n")
    encoders.save(encoder, tmp_path / "run")
    with pytest.raises(ValueError, match="has changed"):
        encoders.load(tmp_path / "run", trust_code=True)
    code.write_text(SOURCE)
    np.testing.assert_array_equal(encoders.load(tmp_path / "run", trust_code=True)(PCM), encoder(PCM))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("my_encoder.py:Yours", "my_encoder.py has no NNX module class 'Yours'; it has MyEncoder"),
        ("my_encoder.py:nnx", "has no NNX module class 'nnx'"),
        ("nothing.py:MyEncoder", "no file .*nothing.py"),
        (
            "my_encoder.txt:MyEncoder",
            "unknown encoder 'my_encoder.txt:MyEncoder'; choose from .* your own FILE.py:Class",
        ),
    ],
)
def test_a_name_without_a_class_is_refused(code, monkeypatch, name, problem):
    monkeypatch.chdir(code.parent)
    with pytest.raises(ValueError, match=problem):
        encoders.create(name, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("before", "after", "sizes", "problem"),
    [
        ("", "", {"girth": 3}, "MyEncoder has no size 'girth'; allowed: width, groups"),
        ('{"width": self.width, ', "{", {"width": 24}, "given width=24, which its property `config` does not return"),
        ("def config", "def sizes", {"width": 24}, "given width=24, which its property `config` does not return"),
    ],
)
def test_sizes_that_would_be_lost_are_refused(code, before, after, sizes, problem):
    assert before in SOURCE
    code.write_text(SOURCE.replace(before, after))
    with pytest.raises(ValueError, match=problem):
        make(code, **sizes)


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("def config", "def sizes", "it takes width, groups, and no property `config` returns them"),
        ("list(self.groups)", "tuple(self.groups)", r"its size groups is \(200,\), which JSON cannot hold"),
        ('"width": self.width', '"width": float("nan")', "its size width is nan, which JSON cannot hold"),
        ('"width": self.width', '"code": self.width', "encoder.json has another use for 'code'"),
        ('"width": self.width', '"width": 24', r"one made again from its sizes .* would differ \(linear"),
        ("nnx.Dropout(0.5)", "nnx.Dropout(0.5, rngs=rngs)", "dropout.rngs.count is state of type RngCount"),
        ("nnx.Dropout(0.5)", "nnx.BatchNorm(width, rngs=rngs)", "dropout.mean is state of type BatchStat"),
        ("nnx.Dropout(0.5)", "jnp.ones(3)", "dropout is state of type ArrayImpl, and a folder holds only parameters"),
        ("nnx.Dropout(0.5)", "nnx.Param(jnp.arange(3))", "dropout is of int32, not floating point"),
    ],
)
def test_what_a_folder_could_not_give_back_is_not_saved(code, tmp_path, before, after, problem):
    assert before in SOURCE
    code.write_text(SOURCE.replace(before, after))
    encoder = make(code)
    with pytest.raises(ValueError, match=f"cannot save MyEncoder: .*{problem}"):
        encoders.save(encoder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_class_that_no_file_holds_is_not_saved(tmp_path):
    class Local(nnx.Module):
        def __init__(self, *, rngs):
            self.linear = nnx.Linear(2, 2, rngs=rngs)

    with pytest.raises(ValueError, match="Local stands in no Python file under that name"):
        encoders.save(Local(rngs=nnx.Rngs(0)), tmp_path)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"code": "my_encoder.py"}, "code is 'my_encoder.py'; allowed: an object of path and sha256"),
        ({"code": {"path": "x.py"}}, "allowed: an object of path and sha256"),
        ({"encoder": "gemini"}, "encoder is 'gemini'; allowed beside code: a name such as my_encoder.py:MyEncoder"),
        ({"encoder": "my_encoder.py:Yours"}, "has no NNX module class 'Yours'"),
        ({"girth": 3}, "MyEncoder has no size 'girth'"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(code, tmp_path, changes, problem):
    encoders.save(make(code), tmp_path / "run")
    path = tmp_path / "run" / "encoder.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=problem) as error:
        encoders.load(tmp_path / "run", trust_code=True)
    assert str(tmp_path / "run") in str(error.value) and "\n" not in str(error.value)


def test_two_classes_cannot_have_one_name(monkeypatch):
    monkeypatch.setattr("encoders.registry.ENCODERS", dict(encoders.ENCODERS))
    with pytest.raises(ValueError, match="two encoders are named 'grok': Grok and Gemini"):
        encoders.register("grok")(encoders.Gemini)


def test_a_further_bundled_encoder_takes_one_file_of_the_package(tmp_path):
    shutil.copytree(Path(encoders.__file__).parent, tmp_path / "encoders")
    source = """
from encoders.grok import Grok
from encoders.registry import register

@register("whale")
class Whale(Grok): ...
"""
    (tmp_path / "encoders" / "whale.py").write_text(source)
    code = "import encoders; print(*encoders.ENCODERS)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [*encoders.ENCODERS, "whale"]
