"""Encoder classes in users' Python files, and what identifies their code: its path and its SHA-256."""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from flax import nnx


@dataclass(frozen=True)
class UserCode:
    """A Python file: its absolute path and the SHA-256 of its content, in hexadecimal digits.

    What the file imports is not part of it.
    """

    path: Path
    sha256: str


def load_class(path: Path, name: str | None = None, sha256: str | None = None) -> type[nnx.Module]:
    """The NNX module class `name` of a Python file, which is run; without a name, the only public one.

    The same content of the same file gives the same class again. Raises ValueError naming the file where it is missing,
    cannot be imported, or has no such class; and, before it is run, where its SHA-256 is not `sha256`.
    """
    module = _import_file(path, sha256)
    classes = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, nnx.Module) and value.__module__ == module.__name__
    }
    public = [key for key in classes if not key.startswith("_")]
    if name is None:
        if len(public) != 1:
            raise ValueError(
                f"{path} must hold exactly one NNX module class without a leading underscore, or be given as "
                f"{path.name}:Class; it holds {', '.join(public) or 'none'}"
            )
        return classes[public[0]]
    if name not in classes:
        raise ValueError(f"{path} has no NNX module class {name!r}; it has {', '.join(classes) or 'none'}")
    return classes[name]


def code_of(cls: type[nnx.Module]) -> UserCode:
    """The file that defines a class, with the content from which the class was made where `load_class` made it.

    Raises ValueError for a class that no file holds under its name, such as one of a notebook or inside a function.
    """
    module = sys.modules.get(cls.__module__)
    if isinstance(code := getattr(module, "__user_code__", None), UserCode):
        return code
    file = getattr(module, "__file__", None)
    if file is None or not Path(file).is_file() or getattr(module, cls.__qualname__, None) is not cls:
        raise ValueError(
            f"{cls.__qualname__} stands in no Python file under that name, so no folder can name its code; "
            "move the class to the top level of a file of its own"
        )
    path = Path(file).resolve()
    return UserCode(path, hashlib.sha256(path.read_bytes()).hexdigest())


def _import_file(path: Path, sha256: str | None) -> ModuleType:
    """The module of a file's content. What is hashed is what is run, whatever happens to the file meanwhile."""
    path = path.expanduser().resolve()
    if not path.is_file():
        raise ValueError(f"no file {path}")
    source = path.read_bytes()
    code = UserCode(path, hashlib.sha256(source).hexdigest())
    if sha256 not in (None, code.sha256):
        raise ValueError(
            f"the code in {path} has changed: its SHA-256 begins with {code.sha256[:12]} and was {sha256[:12]} when "
            "the encoder was saved; a copy of the old code beside encoder.json would be taken in its place"
        )
    name = f"_encoder_{path.stem}_{hashlib.sha256(repr(code).encode()).hexdigest()}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__, module.__dict__["__user_code__"] = str(path), code
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        exec(compile(source, path, "exec"), module.__dict__)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module
