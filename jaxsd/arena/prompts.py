"""The prompts of the arena, which are data: one file a version, with the variants that a prompt study compares."""

import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jaxsd.config import one_of

PROMPTS = Path(__file__).parent / "prompts"


@dataclass(frozen=True)
class Prompt:
    """Which prompt: a version of the wording, and one choice for each of its variants.

    framework: "nnx" or "torch". architecture: the family asked for. data: whether the size of the data is told.
    scale: whether the scale of the output is told. width: of CLIP's hidden states, 768 in the paper.
    """

    version: str = "1"
    framework: str = "nnx"
    architecture: str = "any"
    data: str = "told"
    scale: str = "untold"
    width: int = 768

    def to_json(self) -> dict[str, str | int]:
        return asdict(self)

    def render(self) -> str:
        """The text that a chatbot gets. Raises ValueError for a version or a choice that there is not."""
        source = read_prompts(self.version)
        framework = one_of("framework", self.framework, source["frameworks"])
        return (
            source["text"]
            .strip()
            .format(
                framework=source["frameworks"][framework],
                template=self.template().strip(),
                width=self.width,
                **{key: source[key][one_of(key, getattr(self, key), source[key])] for key in VARIANTS_OF_PROMPTS},
            )
        )

    def template(self) -> str:
        """The code with two places to fill."""
        templates = read_prompts(self.version)["templates"]
        return templates[one_of("framework", self.framework, templates)].format(width=self.width)


VARIANTS_OF_PROMPTS = ("architecture", "data", "scale")


def prompt_versions() -> list[str]:
    return sorted(path.stem for path in PROMPTS.glob("*.toml"))


def read_prompts(version: str) -> dict[str, Any]:
    """The content of a version's file."""
    one_of("version of the prompts", version, prompt_versions())
    return tomllib.loads((PROMPTS / f"{version}.toml").read_text(encoding="utf-8"))
