"""What a model suggests for sampling from it: `sampling_config.json` in its folder."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from jaxsd.diffusion.samplers import SAMPLERS
from jaxsd.pretrained.model_config import from_dict
from jaxsd.runtime.files import read_json

SAMPLING_CONFIG = "sampling_config.json"


# What `--fast` asks for: about a third of the work of 50 guided steps.
FAST = {"sampler": "dpm++2m", "steps": 15, "guidance_end": 0.6}


@dataclass(frozen=True)
class SamplingDefaults:
    """What `StableDiffusion.__call__` takes where it is not told otherwise.

    `sampler` is None where the checkpoint's own scheduler is to be used. Raises ValueError naming the key and what is
    allowed.
    """

    guidance: float = 7.5
    steps: int = 50
    sampler: str | None = None

    def __post_init__(self):
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance is {self.guidance}; allowed: a finite number")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; allowed: from 1")
        if self.sampler is not None and self.sampler not in SAMPLERS:
            raise ValueError(f"sampler is {self.sampler!r}; allowed: {', '.join(SAMPLERS)}")

    @classmethod
    def read(cls, folder: str | Path) -> "SamplingDefaults":
        """Read a model's folder, which need not have the file. Raises ValueError naming the file and the key."""
        path = Path(folder) / SAMPLING_CONFIG
        if not path.is_file():
            return cls()
        values = read_json(path)
        names = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(values.keys() - set(names)):
            raise ValueError(f"{path}: unknown key {unknown[0]}; allowed: {', '.join(names)}")
        return from_dict(cls, values, path)
