"""The encoder designed by the paper's authors, at the paper's size; the recipes are in common.py.

python train.py --config human.py
python train.py --config human.py:aligned
"""

from jaxsd.configs.common import make_config

from jaxsd.config import TrainConfig


def get_config(recipe: str = "") -> TrainConfig:
    return make_config("human", dict(width=768, stride=1), recipe)
