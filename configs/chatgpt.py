"""The encoder designed by ChatGPT, at the paper's sizes; the recipes are in common.py.

python train.py --config chatgpt.py
python train.py --config chatgpt.py:aligned
"""

from jaxsd.configs.common import make_config

from jaxsd.config import TrainConfig


def get_config(recipe: str = "") -> TrainConfig:
    return make_config("chatgpt", dict(width=768, depth=4, heads=12, mlp=2048), recipe)
