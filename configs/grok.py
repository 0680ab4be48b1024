"""The encoder designed by Grok, trained as in the paper.

python train.py --config grok.py
"""

from ml_collections import ConfigDict

from configs.common import paper


def get_config(recipe: str = "") -> ConfigDict:
    return paper("grok", recipe, width=768, depth=12, heads=12, mlp=3072)
