"""Evaluate audio encoders on a data set's held-out split: python eval.py runs/gemini runs/grok --data data/avt"""

from jaxsd import cli
from jaxsd.commands import run_eval

if __name__ == "__main__":
    cli.run(run_eval)
