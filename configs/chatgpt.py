"""The encoder designed by ChatGPT, at the paper's sizes; the recipes are in common.py.

python train.py --config chatgpt.py
python train.py --config chatgpt.py:aligned
"""

from ml_collections import ConfigDict

from configs.common import make_config


def get_config(recipe: str = "") -> ConfigDict:
    return make_config("chatgpt", dict(width=768, depth=4, heads=12, mlp=2048), recipe)
