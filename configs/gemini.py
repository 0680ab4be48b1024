"""The encoder designed by Gemini, at the paper's sizes; the recipes are in common.py.

python train.py --config gemini.py
python train.py --config gemini.py:aligned
"""

from ml_collections import ConfigDict

from configs.common import make_config


def get_config(recipe: str = "") -> ConfigDict:
    return make_config("gemini", dict(width=768, depth=8, heads=12, mlp=3072), recipe)
