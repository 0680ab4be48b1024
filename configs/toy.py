"""Small encoders for the toy world; by default gemini, trained through the frozen U-Net in minutes on two CPU cores.

python train.py --config toy.py
python train.py --config toy.py:aligned --config.encoder=deepseek
"""

from ml_collections import ConfigDict

from configs.common import make_config
from jaxsd.settings import choose

TRANSFORMER = dict(width=128, depth=3, heads=4, mlp=512)
SIZES = {"gemini": TRANSFORMER, "human": dict(width=128, stride=8)} | dict.fromkeys(
    ("chatgpt", "deepseek", "grok"), TRANSFORMER
)

# What differs from the recipes at full size: less of everything.
SHORT = {"epochs": 0, "steps": 1_200, "batch_size": 128, "remat": False, "save_every": 200, "eval_every": 200}
QUICK = SHORT | {"learning_rate": 5e-4, "warmup": 100}
CHANGES = {
    "toy": QUICK
    | {
        "weights": {"contrastive": 0.03, "sequence": 0.0, "denoise": 1.0},
        "learned_temperature": True,
        "steps": 500,
        "eval_every": 250,
        "optimizer": "muon",
        "learning_rate": 2e-3,
        "weight_decay": 0.0,
        "batch_size": 32,
    },
    "paper": SHORT,
    "aligned": SHORT | {"learning_rate": 5e-4, "warmup": 100},
    "denoise": QUICK | {"batch_size": 32},
    "aligned+denoise": QUICK | {"denoise_batch": 32},
}


def get_config(recipe: str = "", encoder: str = "gemini") -> ConfigDict:
    recipe = choose("recipe", recipe or "toy", CHANGES)
    sizes = SIZES[choose("encoder", encoder, SIZES)]
    changes = CHANGES[recipe]
    data = {"folder": "data/toy", "train_size": 20_000, "held_out": 1_000}
    return make_config(encoder, sizes, recipe if recipe != "toy" else "denoise", **changes, data=data)
