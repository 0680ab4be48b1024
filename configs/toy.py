"""A small encoder for the toy world, trained through its frozen U-Net; about 15 minutes on two CPU cores.

python train.py --config toy.py
"""

from ml_collections import ConfigDict

from jaxsd.settings import choose


def get_config(recipe: str = "") -> ConfigDict:
    choose("recipe", recipe or "toy", ("toy",))
    return ConfigDict(
        {
            "encoder": "gemini",
            "encoder_config": {"width": 128, "depth": 3, "heads": 4, "mlp": 512},
            "data": {"kind": "toy", "folder": "data/toy", "train_size": 20_000, "held_out": 1_000},
            "steps": 1_200,
            "batch_size": 32,
            "learning_rate": 5e-4,
            "warmup": 100,
            "dropout": False,
            "weights": {"contrastive": 0.02, "denoise": 1.0},
            "seed": 0,
            "save_every": 200,
            "eval_every": 200,
        }
    )
