"""Train an audio encoder: python train.py --config gemini.py:aligned --config.data.folder=data/avt"""

from jaxsd import cli
from jaxsd.commands import run_train

if __name__ == "__main__":
    cli.run(run_train)
