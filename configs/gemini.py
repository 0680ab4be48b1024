"""The encoder designed by Gemini, at the paper's sizes; the recipes are in common.py.

python train.py --config gemini.py
python train.py --config gemini.py:aligned
"""

from jaxsd.configs.common import make_config

from jaxsd.config import TrainConfig


def get_config(recipe: str = "") -> TrainConfig:
    return make_config("gemini", dict(width=768, depth=8, heads=12, mlp=3072), recipe)
