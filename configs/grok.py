"""The encoder designed by Grok, at the paper's sizes; the recipes are in common.py.

python train.py --config grok.py
python train.py --config grok.py:aligned
"""

from ml_collections import ConfigDict

from configs.common import make_config


def get_config(recipe: str = "") -> ConfigDict:
    return make_config("grok", dict(width=768, depth=12, heads=12, mlp=3072), recipe)
