import os
import socket
import time
from pathlib import Path

import pytest

from jaxsd.arena.code import Refused, check_places, extract_code
from jaxsd.arena.judge import judge_answer
from jaxsd.arena.prompts import Prompt
from jaxsd.arena.sandbox import GIB, Limits, choose_sandbox, find_sandbox
from tests.helpers.designs import COMPUTE, LAYERS, answer, design, hostile, linear

LIMITS = Limits(seconds=60)
needs_sandbox = pytest.mark.skipif(bool(find_sandbox()), reason=find_sandbox() or "")
HOSTILE = list(hostile("", 0))
SHORT = {"loops", "hangs in a default"}


def judge(text: str, folder: Path, framework: str = "nnx", limits: Limits = LIMITS):
    return judge_answer(text, folder / "try-1.py", Prompt(framework=framework), limits)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def processes_of(path: Path) -> list[str]:
    """Command lines of the processes that name a file."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes()
        except OSError:
            continue
        if str(path).encode() in line:
            found.append(line.decode())
    return found


@needs_sandbox
@pytest.mark.slow
def test_a_sound_design_is_accepted_with_its_counts_and_a_bad_one_is_not(tmp_path):
    verdict = judge(answer(linear(64)), tmp_path)
    assert verdict.accepted and not any(problem for _, problem in verdict.clauses)
    assert verdict.parameters == 208 * 64 + 64 + 64 * 768 + 768
    assert verdict.layers == {"Linear": 2}
    assert verdict.flops == 2 * 77 * (208 * 64 + 64 * 768)
    assert judge(answer(design("raise KeyError('no')")), tmp_path).reason == "not constructed"


@needs_sandbox
@pytest.mark.long
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_design_ends_within_its_limits_and_changes_nothing(name, tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (outside / "secret").write_text("a secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        code, reason = hostile(str(outside / "secret"), server.getsockname()[1])[name]
        before, started = contents(outside), time.monotonic()
        verdict = judge(answer(code), inside, limits=Limits(seconds=8 if name in SHORT else 60))
        with pytest.raises(TimeoutError):
            server.accept()
    assert verdict.reason == reason, verdict.problem
    assert time.monotonic() - started < 70
    assert contents(outside) == before
    assert contents(inside) == {str(inside / "try-1.py"): code.encode()}
    for _ in range(50):
        if not (left := processes_of(inside)):
            break
        time.sleep(0.1)
    assert not left


@needs_sandbox
@pytest.mark.long
@pytest.mark.parametrize(
    ("layers", "compute", "reason"),
    [
        ("raise KeyError('no')", COMPUTE, "not constructed"),
        (LAYERS, f"{COMPUTE} / jnp.abs(x).max((1, 2), keepdims=True)", "not finite"),
        (LAYERS, f"{COMPUTE}; x = x - x.mean(0)", "depends on the batch"),
        (LAYERS, f"import time; {COMPUTE} + time.time() % 100", "not under jit"),
        (
            f"import os; self.a = int.from_bytes(os.urandom(2)) + 1; {LAYERS}",
            f"{COMPUTE} * self.a",
            "not deterministic",
        ),
    ],
)
def test_each_clause_has_its_reason(layers, compute, reason, tmp_path):
    assert judge(answer(design(layers, compute)), tmp_path).reason == reason


TORCH = """import torch
from torch import nn


class NewAudioEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 768, 208, stride=208)

    def forward(self, x):
        x = x.view((-1, 1, 16000)) / 32767
        x = self.conv(nn.functional.pad(x, (0, 16))).transpose(1, 2)
        assert x.shape[1:] == (77, 768)
        return x
"""


@needs_sandbox
@pytest.mark.slow
def test_a_pytorch_design_is_accepted(tmp_path):
    pytest.importorskip("torch")
    verdict = judge(answer(TORCH), tmp_path, "torch")
    assert verdict.accepted, verdict.problem
    assert verdict.parameters == 768 * 208 + 768 and verdict.layers["Conv1d"] == 1


def test_code_is_taken_from_the_one_block():
    assert extract_code(answer("x = 1\n")) == "x = 1\n"
    assert extract_code("```bash\npip\n```\n" + answer("x = 1\n")) == "x = 1\n"
    for text, reason in (("none", "no code"), (answer("x = 1\n") * 2, "several blocks")):
        with pytest.raises(Refused) as refused:
            extract_code(text)
        assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/ 32767", "/ 32768"),
        ("assert x.shape[1:] == (77, 768)", "pass"),
        ("class NewAudioEncoder(nnx.Module)", "class NewAudioEncoder(nnx.Module, metaclass=M)"),
        ("rngs: nnx.Rngs", "rngs: nnx.Rngs, extra=print(1)"),
        ("\n\nclass", "\nprint(1)\n\nclass"),
        ("    def __call__", "    @print\n    def __call__"),
    ],
)
def test_code_may_change_the_marked_places_alone(old, new):
    check_places(design(), Prompt())
    assert old in design()
    with pytest.raises(Refused) as refused:
        check_places(design().replace(old, new), Prompt())
    assert refused.value.reason == "changed elsewhere"


def test_without_a_sandbox_code_must_be_trusted(monkeypatch):
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(ValueError, match="--trust"):
        choose_sandbox(trust=False)
    assert not choose_sandbox(trust=True)


def test_limits_are_of_sizes_that_jax_needs():
    assert Limits().memory >= 8 * GIB
