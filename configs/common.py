"""The settings of the paper's training (arXiv 2509.09717) that its five encoders share."""

from ml_collections import ConfigDict

from jaxsd.settings import choose

RECIPES = ("paper",)


def paper(encoder: str, recipe: str, **sizes: int) -> ConfigDict:
    """The config of an encoder of the given sizes. Raises ValueError for an unknown recipe ("" is "paper")."""
    choose("recipe", recipe or "paper", RECIPES)
    return ConfigDict(
        {
            "encoder": encoder,
            "encoder_config": sizes,
            "data": {"kind": "arrays", "folder": "data"},
            "text_pooling": "eos",
            "epochs": 32,
            "batch_size": 1151,
            "optimizer": "adam",  # the paper names none
            "schedule": "constant",
            "learning_rate": 1e-3,
            "warmup": 0,
            "weights": {"contrastive": 1.0, "denoise": 0.0},
            "seed": 0,
            "save_every": 1000,
            "eval_every": 1000,
        }
    )
