"""The code of an answer: taken from its fenced block and parsed, but never run here."""

import ast
import re

from jaxsd.arena.prompts import Prompt

CLASS = "NewAudioEncoder"
BLOCK = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)


class Refused(ValueError):
    """An answer is ruled out: `reason` is its category, and the message says what was wrong."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def extract_code(answer: str) -> str:
    """The Python code in an answer's only fenced block. Raises Refused where there is none, or more than one."""
    blocks = [code for language, code in BLOCK.findall(answer) if language.lower() in ("", "py", "python", "python3")]
    if not blocks:
        raise Refused("no code", "the answer holds no fenced block of Python code")
    if len(blocks) > 1:
        raise Refused(
            "several blocks", f"the answer holds {len(blocks)} blocks of Python code, where one was asked for"
        )
    return blocks[0]


def check_places(code: str, prompt: Prompt) -> None:
    """Raise Refused where code is no Python, or differs from the prompt's template outside the marked places."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Refused("not Python", f"the code cannot be parsed: {error}") from None
    template = ast.parse(prompt.template())
    asked = next(node for node in template.body if isinstance(node, ast.ClassDef))
    others = [
        node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom) and not _is_constant(node)
    ]
    if len(others) != 1 or not isinstance(others[0], ast.ClassDef) or others[0].name != CLASS:
        raise Refused("changed elsewhere", f"beside imports, the file may hold the class {CLASS} alone")
    cls = others[0]
    header = [ast.dump(node) for node in (*cls.bases, *cls.keywords, *cls.decorator_list)]
    if header != [ast.dump(node) for node in asked.bases]:
        raise Refused("changed elsewhere", f"the header of class {CLASS} differs from what was given")
    methods = [node for node in cls.body if not _is_constant(node)]
    if [getattr(node, "name", None) for node in methods] != [node.name for node in asked.body]:  # pyright: ignore
        raise Refused("changed elsewhere", f"class {CLASS} may hold {' and '.join(_names_of(asked))} alone")
    for method, given in zip(methods, asked.body, strict=True):
        _check_method(method, given)


def _check_method(method, given) -> None:
    place = next(i for i, node in enumerate(given.body) if _is_constant(node))
    before, after = given.body[:place], given.body[place + 1 :]
    body = [node for i, node in enumerate(method.body) if i or not _is_constant(node)]
    same = (
        type(method) is type(given)
        and ast.dump(method.args) == ast.dump(given.args)
        and not method.decorator_list
        and list(map(ast.dump, body[: len(before)])) == list(map(ast.dump, before))
        and list(map(ast.dump, body[len(body) - len(after) :])) == list(map(ast.dump, after))
        and len(body) >= len(before) + len(after)
    )
    if not same:
        raise Refused("changed elsewhere", f"{given.name} differs from what was given outside the marked place")


def _names_of(cls: ast.ClassDef) -> list[str]:
    return [node.name for node in cls.body if isinstance(node, ast.FunctionDef)]


def _is_constant(node: ast.stmt) -> bool:
    """Whether a statement is a docstring or `...`."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
