"""Evaluate trained encoders on the toy world: python eval.py runs/toy"""

import argparse
from pathlib import Path

from jaxsd import cli


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="folders of trained encoders")
    parser.add_argument(
        "--data", type=Path, default=Path("data/toy"), help="folder of the data set (default: data/toy)"
    )
    parser.add_argument("--pictures", type=int, default=200, help="pictures the judge sees a row, 0 for none (200)")
    arguments = parser.parse_args()

    from jaxsd.toy import scores  # imports jax: after the arguments are known to be right

    scores.show(scores.score(arguments.runs, arguments.data, arguments.pictures))


if __name__ == "__main__":
    cli.run(main)
