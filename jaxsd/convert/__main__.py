"""Turn PyTorch checkpoints of the authors into folders of encoders, and back.

    python -m jaxsd.convert Gemini.pth --out runs/gemini
    python -m jaxsd.convert runs/gemini --out Gemini.safetensors

What SOURCE is decides the direction. PyTorch files need torch 2.10 or newer;
safetensors files do not.
"""

import argparse
from pathlib import Path

from jaxsd.convert.files import convert
from jaxsd.runtime import cli


def main():
    parser = cli.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="a .pth, .pt, .bin or .safetensors file, a file of which only the pieces FILE.part00, FILE.part01... are "
        "there, the folder of these pieces, or the folder of an encoder",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="the encoder's folder, or a .safetensors, .pth, .pt or .bin file"
    )
    parser.add_argument("--heads", type=int, help="attention heads of an encoder whose width is not the paper's 768")
    arguments = parser.parse_args()
    print(convert(arguments.source, arguments.out, arguments.heads))


if __name__ == "__main__":
    cli.run(main)
