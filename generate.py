"""Turn sounds into pictures: python generate.py --audio dog.wav"""

import argparse
from pathlib import Path

from jaxsd import cli


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--audio", nargs="+", default=[], metavar="FILE", help="sound files, or names of the sample sounds")
    add("--text", nargs="+", default=[], help="captions beside the sounds, one for all or one each; or without sounds")
    add(
        "--encoder",
        nargs="+",
        default=["gemini"],
        help="bundled encoders, folders or Hugging Face repositories of trained ones, which are averaged (gemini)",
    )
    add("--model", default="toy", help="Stable Diffusion 1.x: a folder, a .safetensors file or a repository (toy)")
    add("--image", metavar="FILE", help="picture to start from")
    add("--strength", type=float, default=0.7, help="how little is left of that picture, above 0 to 1 (0.7)")
    add("--negative", default="", metavar="TEXT", help="what the pictures should not show")
    add(
        "--unconditional",
        choices=("text", "silence"),
        default="text",
        help="what guidance moves away from: the negative or empty text, or as in the paper silence and, with --text, "
        "that text (text)",
    )
    add("--guidance", type=float, help="weight of the sound against none (3 for the toy model, else 7.5)")
    add("--steps", type=int, help="denoising steps (25 for the toy model, else 50)")
    add("--sampler", help="ddim, pndm, lms, euler, euler_a or dpm++2m (the model's own)")
    add("--width", type=int, help="of the pictures in pixels (what the model was trained at)")
    add("--height", type=int, help="of the pictures in pixels (what the model was trained at)")
    add("--count", type=int, default=1, help="pictures a sound (1)")
    add("--seed", type=int, default=0, help="of the noise the pictures start from (0)")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="(bfloat16 on accelerators, float32 on the CPU)")
    add("--out", type=Path, default=Path("out"), metavar="FOLDER", help="where the pictures go (out)")
    arguments = vars(parser.parse_args())

    from jaxsd.generation import generate  # imports jax: after the arguments are known to be right

    folder = arguments.pop("out")
    names = {"audio": "sounds", "text": "texts", "encoder": "encoder_names"}
    for path in generate(folder, **{names.get(name, name): value for name, value in arguments.items()}):
        print(path)


if __name__ == "__main__":
    cli.run(main)
