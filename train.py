"""Train an audio encoder: python train.py --config gemini.py:aligned --config.data.folder=data/avt"""

from jaxsd.commands.train import run_train
from jaxsd.runtime import cli

if __name__ == "__main__":
    cli.run(run_train)
