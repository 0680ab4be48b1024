"""The encoder designed by DeepSeek, trained as in the paper.

python train.py --config deepseek.py
"""

from ml_collections import ConfigDict

from configs.common import paper


def get_config(recipe: str = "") -> ConfigDict:
    return paper("deepseek", recipe, width=768, depth=12, heads=12, mlp=3072)
