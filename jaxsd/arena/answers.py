"""The folder of an arena: one folder a design, with every answer, its code and the verdict on it.

OUT/<design>/try-1.json holds the answer as it came, try-1.py the code in it and verdict-1.json the verdict.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jaxsd.arena.judge import Verdict, judge_answer
from jaxsd.arena.prompts import Prompt
from jaxsd.arena.sandbox import Limits
from jaxsd.runtime.files import read_json, write_json

TRIES = 3  # of the paper


@dataclass
class AnsweredDesign:
    """What an arena holds of one design: its answers and the verdicts on them, in order."""

    name: str
    folder: Path
    answers: list[dict[str, Any]] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def accepted(self) -> bool:
        return bool(self.verdicts) and self.verdicts[-1].accepted

    @property
    def code(self) -> Path:
        """The file of the last try's code."""
        return self.folder / f"try-{len(self.answers)}.py"

    @property
    def tokens(self) -> int | None:
        """Tokens of all prompts and answers, where every answer's number is known."""
        used = [(answer.get("usage") or {}).get("total_tokens") for answer in self.answers]
        known = [n for n in used if isinstance(n, int)]
        return sum(known) if used and len(known) == len(used) else None


def check_name(name: str) -> str:
    """The name of a design, which is a folder's name too. Raises ValueError for one that is not."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", name):
        raise ValueError(f"name of a design is {name!r}; allowed: up to 80 letters, digits, dots, hyphens, underscores")
    return name


def read_design(folder: Path) -> AnsweredDesign:
    """What a design's folder holds, which may be nothing. Raises ValueError naming a file that is damaged."""
    design = AnsweredDesign(folder.name, folder)
    while (path := folder / f"try-{len(design.answers) + 1}.json").is_file():
        design.answers.append(read_json(path))
        verdict = folder / f"verdict-{len(design.answers)}.json"
        if not verdict.is_file():
            break  # stopped between the answer and its verdict
        try:
            design.verdicts.append(Verdict.from_json(read_json(verdict)))
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{verdict}: not a verdict ({error})") from None
    return design


def read_designs(out: Path) -> list[AnsweredDesign]:
    """All designs of an arena by name. Raises FileNotFoundError where there are none."""
    found = [read_design(path.parent) for path in sorted(out.glob("*/try-1.json"))]
    if not found:
        raise FileNotFoundError(f"{out}: no designs; `jaxsd arena ask` or `jaxsd arena add` puts them there")
    return found


def keep_answer(design: AnsweredDesign, text: str, prompt: Prompt, **known: Any) -> None:
    """Write the next try's answer; `known` is what else is known of it: model, parameters, usage, time."""
    design.folder.mkdir(parents=True, exist_ok=True)
    answer = {"prompt": prompt.to_json(), **known, "text": text}
    write_json(design.folder / f"try-{len(design.answers) + 1}.json", answer)
    design.answers.append(answer)


def judge_last(design: AnsweredDesign, limits: Limits, trust: bool) -> Verdict:
    """The verdict on the last answer: the one that is kept, or a new one."""
    number = len(design.answers)
    if len(design.verdicts) < number:
        answer = design.answers[-1]
        verdict = judge_answer(answer["text"], design.code, Prompt(**answer["prompt"]), limits, trust)
        write_json(design.folder / f"verdict-{number}.json", verdict.to_json())
        design.verdicts.append(verdict)
    return design.verdicts[-1]


def add_answer(out: Path, file: Path, name: str, prompt: Prompt, limits: Limits, trust: bool) -> Verdict:
    """Judge an answer that was pasted into a file, as the next try of the design `name`.

    A .py file is the code itself; any other is the whole answer. Raises ValueError where the design has been accepted
    or had its three tries.
    """
    design = read_design(out / check_name(name))
    if design.answers and len(design.verdicts) < len(design.answers):
        judge_last(design, limits, trust)
    if design.accepted or len(design.answers) >= TRIES:
        state = "is accepted" if design.accepted else f"has had its {TRIES} tries"
        raise ValueError(f"the design {name} in {out} {state}; choose another name")
    text = file.read_text(encoding="utf-8")
    keep_answer(design, f"```python\n{text.rstrip()}\n```\n" if file.suffix == ".py" else text, prompt)
    return judge_last(design, limits, trust)
