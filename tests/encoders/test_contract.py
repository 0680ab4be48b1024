"""The contract check, on good and bad encoders, and its command."""

import pytest
from flax import nnx

import encoders
from encoders import contract
from encoders.__main__ import main

pytestmark = pytest.mark.slow

GOOD = """
import jax.numpy as jnp
from flax import nnx

class _Helper(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(200, 16, rngs=rngs)
    def __call__(self, x):
        return self.linear(x)

class Mine(nnx.Module):
    def __init__(self, *, rngs):
        self.helper = _Helper(rngs)
        self.norm = nnx.LayerNorm(16, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 16, decode=False, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.conv = nnx.Conv(16, 16, (3,), rngs=rngs)
    def __call__(self, pcm):
        x = (pcm / 32768)[:, :15400].reshape(-1, 77, 200)
        x = self.norm(self.helper(x))
        return self.conv(self.dropout(self.attention(x)))
"""


def run(tmp_path, capsys, source, name="mine.py"):
    (tmp_path / name).write_text(source)
    code = main([str(tmp_path / name)])
    captured = capsys.readouterr()
    return code, " ".join((captured.out + captured.err).split())


@pytest.mark.parametrize("name", encoders.ENCODERS)
def test_the_layers_of_the_bundled_encoders_are_the_papers(name):
    encoder = nnx.eval_shape(lambda: encoders.create(name, rngs=nnx.Rngs(0)))
    counts = contract.count_layers(encoder)
    expected = {layer: row[name] for layer, row in contract.PAPER_LAYERS.items()}
    if name == "gemini":
        expected["branching"] = 16  # the paper has one more
    assert {layer: counts[layer] for layer in expected} == expected
    assert counts.keys() <= contract.PAPER_LAYERS.keys()
    assert contract.parameter_count(encoder) == contract.PAPER_PARAMETERS[name]


def test_flops_of_a_transformer_are_about_two_for_each_parameter_and_token():
    encoder = nnx.eval_shape(lambda: encoders.create("deepseek", rngs=nnx.Rngs(0)))
    assert contract.flops_per_clip(encoder) == pytest.approx(2 * 77 * 85.3e6, rel=0.05)


def test_a_bundled_encoder_passes(capsys, monkeypatch):
    class SmallGrok(encoders.Grok):
        def __init__(self, *, rngs):
            super().__init__(width=32, depth=1, heads=4, mlp=48, rngs=rngs)

    monkeypatch.setitem(encoders.ENCODERS, "grok", SmallGrok)
    assert main(["grok"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("ok ") for line in lines) == 7
    assert not any("FAILS" in line for line in lines)
    assert any(line.split() == ["MultiheadAttention", "1", "0", "4", "12", "8", "12"] for line in lines), lines
    assert any("parameters, 0.0" in line and line.endswith("GFLOPs a clip") for line in lines)


def test_a_good_file_passes_and_its_modules_are_counted(tmp_path, capsys):
    code, out = run(tmp_path, capsys, GOOD)
    assert code == 0 and "FAILS" not in out

    source: dict = {"__name__": "mine"}
    exec(GOOD, source)
    counts = contract.count_layers(source["Mine"](rngs=nnx.Rngs(0)))
    assert counts == {"Linear": 1, "LayerNorm": 1, "MultiheadAttention": 1, "Dropout": 1, "Conv1d": 1}


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("*, rngs", "*, size, rngs", "constructed as Class(rngs=...): TypeError"),
        ("(-1, 77, 200)", "(-1, 70, 200)", "floats: ValueError"),
        ("return self.conv(", "return jnp.int32(", "returns int32 of shape (5, 77, 16)"),
        ("return self.conv(", "return list(", "returns list, not an array"),
        ("x = self.norm(self.helper(x))", "x = self.helper(x) / x.std((1, 2), keepdims=True)", "not on silence"),
        ("x = self.norm(self.helper(x))", "x = self.helper(x - x.mean())", "alone and in a batch"),
        (
            "x = self.norm(self.helper(x))",
            "x = self.helper(x / max(1, float(x.max())))",
            "jax.jit: ConcretizationTypeErr",
        ),
        ("self.dropout(", "self.dropout.__class__(0.5, deterministic=False, rngs=COUNT)(", "two calls differ"),
    ],
)
def test_the_clause_that_fails_is_named(tmp_path, capsys, before, after, problem):
    assert before in GOOD
    source = "from flax import nnx\nCOUNT = nnx.Rngs(0)\n" + GOOD.replace(before, after)
    code, out = run(tmp_path, capsys, source)
    assert code == 1 and problem in out


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("x = 1", "exactly one NNX module class without a leading underscore"),
        ("x = 1", "it holds none"),
        (GOOD.replace("_Helper", "Helper"), "it holds Helper, Mine"),
        ("import no_such_module", "cannot be imported: ModuleNotFoundError"),
        ("def f(:", "cannot be imported: SyntaxError"),
    ],
)
def test_a_file_without_one_encoder_is_refused(tmp_path, capsys, source, problem):
    code, out = run(tmp_path, capsys, source)
    assert code == 2 and problem in out


@pytest.mark.parametrize(
    ("name", "problem"), [("bard", "unknown encoder 'bard'; choose from human"), ("no.py", "no.py")]
)
def test_a_name_that_is_no_encoder_is_refused(capsys, name, problem):
    assert main([name]) == 2
    assert problem in capsys.readouterr().err


def test_a_wrong_flag_is_told_in_a_sentence(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--all"])
    assert capsys.readouterr().err == (
        "python -m encoders: unrecognized arguments: --all; see python -m encoders --help\n"
    )


def test_the_bundled_encoders_are_listed_with_their_parameters(capsys):
    assert main([]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    for name, count in contract.PAPER_PARAMETERS.items():
        assert any(line[:2] == [name, f"{count:,}"] for line in lines), name


def test_a_class_of_a_file_is_checked_by_its_name_and_stands_in_the_table(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(GOOD.replace("_Helper", "Helper"))
    assert main([f"{tmp_path / 'mine.py'}:Mine"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["Mine", "human", "chatgpt", "deepseek", "gemini", "grok"] in lines
    assert ["Linear", "1", "3", "8", "24", "17", "25"] in lines


def test_a_sixth_bundled_encoder_is_listed_and_counted(capsys, monkeypatch):
    monkeypatch.setattr("encoders.registry.ENCODERS", registered := dict(encoders.ENCODERS))
    for module in ("encoders.catalog", "encoders.__main__"):
        monkeypatch.setattr(f"{module}.ENCODERS", registered)

    @encoders.register("whale")
    class Whale(encoders.Grok):
        operations = {"echo": 2}

        def __init__(self, *, rngs):
            super().__init__(width=32, depth=1, heads=4, mlp=48, rngs=rngs)

    assert main([]) == 0 and main(["whale"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert any(line[:1] == ["whale"] for line in lines)
    assert ["echo", "2"] in lines


def test_dropout_that_rngs_do_not_turn_on_is_named(tmp_path, capsys):
    source = GOOD.replace("def __call__(self, pcm)", "def __call__(self, pcm, *, rngs=None)")
    code, out = run(tmp_path, capsys, source)
    assert code == 1 and "drops out where it is given rngs: the outputs with rngs=key are the outputs without" in out
    source = source.replace(
        "self.dropout(self.attention(x))", "self.dropout(self.attention(x), deterministic=rngs is None, rngs=rngs)"
    )
    code, out = run(tmp_path, capsys, source)
    assert code == 0 and "drops out where it is given rngs" in out
