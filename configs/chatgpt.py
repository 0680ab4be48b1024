"""The encoder designed by ChatGPT, trained as in the paper.

python train.py --config chatgpt.py
"""

from ml_collections import ConfigDict

from configs.common import paper


def get_config(recipe: str = "") -> ConfigDict:
    return paper("chatgpt", recipe, width=768, depth=4, heads=12, mlp=2048)
