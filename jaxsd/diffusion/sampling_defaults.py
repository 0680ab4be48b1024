"""How a model suggests to be sampled: a file in its folder, beside what diffusers writes."""

from dataclasses import dataclass
from pathlib import Path

from jaxsd.diffusion.samplers import SAMPLERS
from jaxsd.files import read_json
from jaxsd.pretrained.model_config import from_dict

SAMPLING_CONFIG = "sampling_config.json"


@dataclass(frozen=True)
class SamplingDefaults:
    """What the pipeline takes where a call does not say it.

    `sampler` None is the one that the scheduler's config names.
    """

    guidance: float = 7.5
    steps: int = 50
    sampler: str | None = None

    def __post_init__(self):
        if type(self.guidance) not in (int, float):
            raise ValueError(f"guidance is {self.guidance!r}; allowed: a number")
        if type(self.steps) is not int or self.steps < 1:
            raise ValueError(f"steps is {self.steps!r}; allowed: an integer of at least 1")
        if self.sampler is not None and self.sampler not in SAMPLERS:
            raise ValueError(f"sampler is {self.sampler!r}; allowed: null, {', '.join(SAMPLERS)}")

    @classmethod
    def read(cls, folder: Path) -> "SamplingDefaults":
        """From a model's folder; the defaults where it has no such file. Raises ValueError that names the file."""
        path = folder / SAMPLING_CONFIG
        return from_dict(cls, read_json(path), path) if path.is_file() else cls()
