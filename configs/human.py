"""The encoder designed by the paper's authors, at the paper's size; the recipes are in common.py.

python train.py --config human.py
python train.py --config human.py:aligned
"""

from ml_collections import ConfigDict

from configs.common import make_config


def get_config(recipe: str = "") -> ConfigDict:
    return make_config("human", dict(width=768, stride=1), recipe)
