"""The recipes of training, for an encoder of any size, as changes to the paper's (the defaults of TrainConfig)."""

from collections.abc import Mapping
from typing import Any

from jaxsd.config import TrainConfig, deep_merge, one_of

POST_NORM = ("chatgpt", "deepseek", "grok")

ALIGNED = {
    "weights": {"sequence": 1.0},
    "learned_temperature": True,
    "optimizer": "adamw",
    "learning_rate": 5e-4,
    "schedule": "cosine",
    "warmup": 2000,
    "weight_decay": 0.05,
    "clip_norm": 1.0,
    "average_decay": 0.999,
}
RECIPES: dict[str, dict[str, Any]] = {
    "paper": {},
    "aligned": ALIGNED,
    "denoise": deep_merge(
        ALIGNED,
        {
            "weights": {"contrastive": 0.0, "sequence": 0.0, "denoise": 1.0},
            "learned_temperature": False,
            "dropout": False,
            "epochs": 1,
            "batch_size": 128,
            "remat": True,
        },
    ),
    "aligned+denoise": deep_merge(
        ALIGNED,
        {
            "weights": {"contrastive": 0.03, "sequence": 0.03, "denoise": 1.0},
            "epochs": 10,
            "denoise_batch": 64,
            "remat": True,
        },
    ),
}


def make_config(encoder: str, sizes: Mapping[str, Any], recipe: str, **changes: Any) -> TrainConfig:
    """The config of an encoder of these sizes by a recipe ("" is "paper"), with `changes` to it.

    Nested changes are merged key by key: `weights={"sequence": 0.5}` leaves the other weights.
    Raises ValueError for an unknown recipe, an unknown key or a value of another type.
    """
    recipe = one_of("recipe", recipe or "paper", RECIPES)
    if recipe != "paper" and encoder in POST_NORM:
        # Behind twelve post-norm layers, gradients at the start are too uneven for the rate of the others. Beside
        # standard normal positions a projected waveform is a fortieth, and the first norm leaves little of it.
        changes = {"learning_rate": 2e-4, "branch_init": (2 * sizes["depth"]) ** -0.5, "position_init": 0.02} | changes
    return TrainConfig.from_dict(deep_merge({"encoder": encoder, "encoder_config": sizes}, RECIPES[recipe], changes))
