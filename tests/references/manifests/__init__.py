"""The keys and shapes of published checkpoints, as `python -m tests.references.manifests.make` writes them."""

import json
from pathlib import Path

HERE = Path(__file__).parent


def read(name: str) -> dict[str, tuple[int, ...]]:
    """Key -> shape of "unet", "vae", "text_encoder", "single_file" or "clip"."""
    return {key: tuple(shape) for key, shape in json.loads((HERE / f"{name}.json").read_text()).items()}
