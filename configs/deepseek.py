"""The encoder designed by DeepSeek, at the paper's sizes; the recipes are in common.py.

python train.py --config deepseek.py
python train.py --config deepseek.py:aligned
"""

from jaxsd.configs.common import make_config

from jaxsd.config import TrainConfig


def get_config(recipe: str = "") -> TrainConfig:
    return make_config("deepseek", dict(width=768, depth=12, heads=12, mlp=3072), recipe)
