"""The encoder designed by Gemini, trained as in the paper.

python train.py --config gemini.py
"""

from ml_collections import ConfigDict

from configs.common import paper


def get_config(recipe: str = "") -> ConfigDict:
    return paper("gemini", recipe, width=768, depth=8, heads=12, mlp=3072)
