"""The shapes and dtypes that annotations name are checked at every call of the project's functions in a test run."""

import os
import sys
from pathlib import Path

from jaxtyping import install_import_hook

import tests.helpers.typechecker  # noqa: F401  # the hook names it

# Processes of one run, and later runs, share what is compiled.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# PyTorch's threads would wait in a loop for the cores that other test processes have.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests compile much and compute little: what makes programs faster costs them more than it brings.
QUICKLY_COMPILED = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICKLY_COMPILED}"

install_import_hook(["jaxsd", "encoders"], "tests.helpers.typechecker.beartype")  # before the first import of either

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def strict_jax():
    """Highest precision, and no silent broadcasting of ranks."""
    with jax.default_matmul_precision("highest"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def run_jaxsd(tmp_path, monkeypatch, capsys):
    """The exit status, stdout and stderr of the command `jaxsd`, run in this process from an empty folder."""
    from jaxsd import commands
    from jaxsd.runtime import cli

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(cli, "_watch_interrupts", lambda: None)  # this process is pytest's
        monkeypatch.setattr(sys, "argv", ["jaxsd", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            commands.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def cudnn(monkeypatch):
    """As with jax[cuda] installed: JAX looks for a GPU when such a program runs, and for cuDNN when it is traced."""
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
