"""What depends on what: imports go down only, in no circle, and nothing is defined twice."""

import ast
import subprocess
import sys
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the lowest to the highest: a room imports those before it. `encoders` imports nothing of jaxsd.
ROOMS = (
    "encoders",
    "jaxsd.runtime",
    "jaxsd.audio",
    "jaxsd.config",
    "jaxsd.configs",
    "jaxsd.pretrained",
    "jaxsd.clip",
    "jaxsd.diffusion",
    "jaxsd.data",
    "jaxsd.evaluation",
    "jaxsd.training",
    "jaxsd.convert",
    "jaxsd.recipes",
    "jaxsd.sound_to_image",
    "jaxsd.generation",
    "jaxsd.study",
    "jaxsd.toy",
    "jaxsd.arena",
    "jaxsd.serving",
    "jaxsd.commands",
)
# Every config file and every command has one.
DEFINED_OFTEN = {"get_config", "main"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(("jaxsd", *parts) if parts[0] == "configs" else parts)


SOURCES = {
    module_name(path): ast.parse(path.read_text())
    for folder in ("encoders", "jaxsd", "configs")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def imported_modules(name: str) -> set[str]:
    """The project's modules that a module's code imports, wherever in it, but for type checkers alone."""
    found = set()
    for node in ast.walk(_without_type_checking(SOURCES[name])):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    # `from jaxsd.toy import world` imports jaxsd.toy.world; that of a name in a module, the module.
    found = {module for module in found if module in SOURCES}
    return {module for module in found if not any(other.startswith(f"{module}.") for other in found)} - {name}


class _WithoutTypeChecking(ast.NodeTransformer):
    def visit_If(self, node):
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)


def _without_type_checking(tree: ast.Module) -> ast.Module:
    return _WithoutTypeChecking().visit(ast.parse(ast.unparse(tree)))


def room(module: str) -> str:
    parts = module.split(".")
    return parts[0] if parts[0] == "encoders" else ".".join(parts[:2])


def loaded_by(code: str) -> set[str]:
    code = f"{code}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "jaxsd"])
def test_imports_go_down_only(name):
    assert room(name) in ROOMS, f"{room(name)} has no place in ROOMS"
    for module in imported_modules(name) - {"jaxsd"}:
        assert ROOMS.index(room(module)) <= ROOMS.index(room(name)), f"{name} imports {module}, which is above it"


def test_there_is_no_circle():
    try:
        TopologicalSorter({name: imported_modules(name) for name in SOURCES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_encoders_stand_alone():
    assert not {
        name for name in loaded_by("import encoders") if name.split(".")[0] in ("jaxsd", "torch", "transformers")
    }


@pytest.mark.parametrize("code", ["import jaxsd.diffusion.pipeline", "from jaxsd import StableDiffusion"])
def test_stable_diffusion_loads_no_audio_encoder_and_no_converter(code):
    above = ("encoders.", "jaxsd.convert", "jaxsd.audio")
    assert {name for name in loaded_by(code) if name.startswith(above)} == {"encoders.attention", "encoders.model_spec"}


def test_models_know_nothing_of_training_data_or_files():
    loaded = loaded_by("import jaxsd.clip.towers, jaxsd.diffusion.unet, jaxsd.diffusion.vae")
    above = (
        "jaxsd.training",
        "jaxsd.data",
        "jaxsd.evaluation",
        "jaxsd.toy",
        "jaxsd.convert",
        "jaxsd.pretrained.weights",
    )
    assert not {name for name in loaded if name.startswith(above)}


def test_running_needs_no_toy_world_no_torch_and_no_diffusers():
    loaded = loaded_by(
        "import jaxsd.generation.modes, jaxsd.training.train, jaxsd.evaluation.evaluate, jaxsd.data.prepare"
    )
    assert not {name for name in loaded if name.split(".")[0] in ("torch", "diffusers", "transformers", "librosa")}
    assert not {name for name in loaded if name.startswith("jaxsd.toy")}


@pytest.mark.parametrize(
    "code",
    [
        "import jaxsd, jaxsd.commands, jaxsd.commands.generate",
        "import jaxsd.config; jaxsd.config.load_config('toy.py')",
    ],
)
def test_flags_and_configs_are_read_without_jax(code):
    assert not loaded_by(code) & {"jax", "numpy", "matplotlib", "orbax"}


def test_nothing_is_defined_twice():
    homes = defaultdict(set)
    for name, tree in SOURCES.items():
        for node in tree.body:
            for defined in _names(node):
                homes[defined].add(name)
    twice = {
        name: sorted(modules)
        for name, modules in homes.items()
        if len(modules) > 1 and name not in DEFINED_OFTEN and not name.startswith("__")
    }
    assert not twice


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [leaf.id for target in targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)]
