"""A small encoder trained on the toy world, on a CPU.

python train.py --config toy.py
"""

from ml_collections import ConfigDict

from jaxsd.settings import choose


def get_config(recipe: str = "") -> ConfigDict:
    choose("recipe", recipe, [""])
    return ConfigDict(
        {
            "encoder": "gemini",
            "encoder_config": {"width": 128, "depth": 3, "heads": 4, "mlp": 512},
            "data": {"kind": "toy", "train_size": 20_000, "held_out": 1_000},
            "steps": 3_000,
            "batch_size": 32,
            "learning_rate": 5e-4,
            "warmup": 100,
            "weights": {"contrastive": 0.1, "denoise": 1.0},
            "seed": 0,
            "save_every": 500,
            "eval_every": 500,
        }
    )
