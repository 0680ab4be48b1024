"""Turn sounds into pictures: python generate.py --audio dog.wav"""

import argparse
from pathlib import Path

from jaxsd import cli


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--audio", nargs="+", required=True, help="sound files, or names of the sample sounds")
    parser.add_argument("--encoder", help="folder of a trained encoder (default: the bundled one of the toy world)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the pictures (default: out)")
    parser.add_argument("--guidance", type=float, default=3.0, help="weight of the sound against none (3)")
    parser.add_argument("--steps", type=int, default=25, help="denoising steps (25)")
    parser.add_argument("--sampler", default="ddim", help="ddim, pndm, lms, euler, euler_a or dpm++2m (ddim)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise the picture starts from (0)")
    arguments = parser.parse_args()

    from jaxsd.generation import generate  # imports jax: after the arguments are known to be right

    paths = generate(
        arguments.audio,
        arguments.encoder,
        arguments.out,
        guidance=arguments.guidance,
        steps=arguments.steps,
        sampler=arguments.sampler,
        seed=arguments.seed,
    )
    for path in paths:
        print(path)


if __name__ == "__main__":
    cli.run(main)
