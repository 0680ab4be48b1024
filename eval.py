"""Evaluate audio encoders on a data set's held-out split: python eval.py runs/gemini runs/grok --data data/avt"""

from jaxsd.commands.evaluate import run_eval
from jaxsd.runtime import cli

if __name__ == "__main__":
    cli.run(run_eval)
