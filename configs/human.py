"""The encoder designed by the paper's authors, trained as in the paper.

python train.py --config human.py
"""

from ml_collections import ConfigDict

from configs.common import paper


def get_config(recipe: str = "") -> ConfigDict:
    return paper("human", recipe, width=768)
