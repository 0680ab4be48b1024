"""The encoder designed by DeepSeek, at the paper's sizes; the recipes are in common.py.

python train.py --config deepseek.py
python train.py --config deepseek.py:aligned
"""

from ml_collections import ConfigDict

from configs.common import make_config


def get_config(recipe: str = "") -> ConfigDict:
    return make_config("deepseek", dict(width=768, depth=12, heads=12, mlp=3072), recipe)
