"""`jaxsd generate`: its flags, and which of its modes they ask for.

Flags are read here, before anything slow is imported.
"""

import argparse
import math
import sys
import time
from pathlib import Path

from jaxsd.generation.model_arguments import add_model_arguments, add_trust_argument
from jaxsd.runtime import cli

EXAMPLES = """\
  %(prog)s --audio dog.wav
  %(prog)s --audio dog organ --text "at night" --count 2
  %(prog)s --audio waves --image sketch.png --strength 0.7
  %(prog)s --audio dog.wav --encoder runs/avt --model sd15.safetensors"""
STUDY_ONLY = ("clip", "shard", "dry_run", "coordinator", "num_processes", "process_id")
NOT_IN_STUDY = ("audio", "text", "image", "mask", "outpaint", "weights", "mix", "sound_weights", "alpha", "random")
NOT_IN_STUDY += ("negative", "overwrite", "recipe", "show", "batch", "window", "slide", "smooth")
NOT_IN_STUDY += ("controlnet", "control_image", "control_scale")


def run_generate():
    if "--serve" in sys.argv[1:]:
        from jaxsd.serving.__main__ import main as serve

        sys.argv.remove("--serve")
        return serve()
    began = time.monotonic()
    parser = _make_parser()
    arguments = parser.parse_args()
    if arguments.study:
        _study(parser, arguments, began)
        return
    _refuse_given(parser, arguments, STUDY_ONLY, "is for a study; give --study, or leave it out")
    if arguments.show:
        _show(arguments.show)
    else:
        _draw(parser, arguments)


def _study(parser: argparse.ArgumentParser, arguments: argparse.Namespace, began: float):
    """`--study`: draw what is missing of it, and write the page."""
    _refuse_given(parser, arguments, NOT_IN_STUDY, "is not for a study, which has every input and mode; leave it out")
    from jaxsd.study.command import draw_study

    if page := draw_study(arguments, began):
        print(page)


def _show(path: Path):
    """`--show`: print how an image was made."""
    from jaxsd.recipes.recipe import describe_recipe, read_recipe

    print(describe_recipe(read_recipe(path)))


def _draw(parser: argparse.ArgumentParser, arguments: argparse.Namespace):
    """Draw images and print the paths of their files."""
    recipe = None
    if arguments.recipe:
        arguments, recipe = _follow_recipe(parser, arguments)
    arguments.encoder, arguments.model = arguments.encoder or ["gemini"], arguments.model or "toy"
    arguments.count = 1 if arguments.count is None else arguments.count
    if arguments.slide is None and (arguments.smooth is not None or arguments.limit is not None):
        raise ValueError("--smooth and --limit are for windows of a sound; give --slide")
    from jaxsd.generation.modes import generate_images, generate_slide, generate_sweep

    mode = generate_slide if arguments.slide is not None else generate_sweep if arguments.sweep else generate_images
    for path in mode(arguments, recipe):
        print(path)


def _follow_recipe(parser: argparse.ArgumentParser, named: argparse.Namespace):
    """The arguments that a recipe stands for, with those of the command line over them, and the recipe."""
    from jaxsd.recipes.recipe import read_recipe
    from jaxsd.recipes.remake import find_ingredients, recipe_flags

    if named.fast:
        raise ValueError("--fast stands for a sampler and steps, which --recipe has; leave one of them out")
    recipe = read_recipe(named.recipe)
    arguments = parser.parse_args(namespace=argparse.Namespace(**recipe_flags(recipe)))
    for name, value in find_ingredients(named.recipe, recipe, vars(named)).items():
        setattr(arguments, name, value)
    return arguments, recipe


def _refuse_given(parser: argparse.ArgumentParser, arguments: argparse.Namespace, names: tuple[str, ...], why: str):
    """Raise ValueError where one of these flags was given."""
    for name in names:
        if getattr(arguments, name) != parser.get_default(name):
            raise ValueError(f"--{name.replace('_', '-')} {why}")


def _make_parser() -> argparse.ArgumentParser:
    parser = cli.ArgumentParser(
        first="--audio",
        usage="%(prog)s --audio FILE [FILE ...] [other flags]",
        description=f"Turn sounds into images.\n\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_input_arguments(parser.add_argument_group("sounds and texts"))
    add_model_arguments(models := parser.add_argument_group("models"))
    models.add_argument(
        "--lora",
        nargs="+",
        default=[],
        metavar="FILE[:WEIGHT]",
        help="LoRAs: files, folders or repositories, each with its weight (1)",
    )
    models.add_argument(
        "--embedding",
        nargs="+",
        default=[],
        metavar="[TOKEN=]FILE",
        help="textual inversions: files, folders or repositories, each with a token for the texts (the file's own)",
    )
    models.add_argument("--controlnet", metavar="FOLDER", help="a ControlNet: a folder, a file or a repository")
    models.add_argument(
        "--clip-skip", type=int, default=0, metavar="N", help="last layers of the text encoder that are left out (0)"
    )
    add_trust_argument(models)
    _add_image_arguments(parser.add_argument_group("an image to start from, or to follow"))
    _add_sampling_arguments(parser.add_argument_group("sampling"))
    _add_file_arguments(parser.add_argument_group("files"))
    _add_study_arguments(parser.add_argument_group("a study: every conditioning, mode and input, and a page of them"))
    cli.add_distributed_arguments(parser)
    parser.add_argument("--serve", action="store_true", help="show a page to play with; its flags: --serve --help")
    parser.set_defaults(first=0)
    return parser


def _add_input_arguments(group: argparse._ArgumentGroup):
    add = group.add_argument
    add(
        "--audio",
        nargs="+",
        default=[],
        metavar="FILE",
        help="sound files, folders, patterns, - for standard input, sample sounds",
    )
    add(
        "--window",
        type=_window,
        metavar="loudest|first|SECONDS",
        help="the second that is taken of each sound: the loudest (that one), the first, or where it begins",
    )
    add("--slide", type=float, metavar="SECONDS", help="a strip and a film: an image of every second, one each SECONDS")
    add("--smooth", type=int, metavar="N", help="with --slide, images between two windows, of mixed embeddings (0)")
    add("--text", nargs="+", default=[], help="captions beside the sounds, one for all or one each; or without sounds")
    add(
        "--encoder",
        nargs="+",
        help="bundled encoders, folders or Hugging Face repositories of trained ones, which are averaged (gemini; of a "
        "study all five)",
    )
    add("--weights", nargs="+", type=float, help="a number for each encoder: a weighted mean (all alike)")
    add("--mix", action="store_true", help="all sounds in one image: the mean of their embeddings")
    add("--sound-weights", nargs="+", type=float, metavar="W", help="with --mix, a number for each sound (all alike)")
    add("--alpha", type=float, help="share of the text beside the sounds, 0 to 1 (0.5)")
    add("--negative", default="", metavar="TEXT", help="what the images should not show")
    add(
        "--weighted-prompts",
        action="store_true",
        help="brackets in the texts weigh words: (word:1.2), (word) 1.1, [word] 1 / 1.1; \\( is a bracket",
    )
    add("--random", action="store_true", help="random embeddings in place of sounds and texts, the paper's baseline")


def _add_image_arguments(group: argparse._ArgumentGroup):
    add = group.add_argument
    add("--image", metavar="FILE", help="image to start from")
    add("--strength", type=float, help="how little is left of that image, above 0 to 1 (0.7; 1 with a mask)")
    add("--mask", metavar="FILE", help="image that is white where the image is painted anew and black where it stays")
    add(
        "--outpaint",
        nargs=4,
        type=int,
        metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"),
        help="pixels by which the image grows; they are painted",
    )
    add("--control-image", metavar="FILE", help="image that --controlnet sees, such as edges or depths")
    add("--control-scale", type=float, metavar="SCALE", help="how much of what the ControlNet says is added (1)")


def _add_sampling_arguments(group: argparse._ArgumentGroup):
    add = group.add_argument
    add("--count", type=int, help="images a sound (1), or of each input, conditioning and mode of a study (2)")
    add("--batch", type=int, metavar="N", help="images that a device draws at once (a CPU one, others what they take)")
    add("--seed", type=int, default=0, help="of the noise the images start from (0)")
    add("--steps", type=int, help="denoising steps (the model's; else 100, or 200 with --image)")
    add("--sampler", help="ddim, pndm, lms, euler, euler_a, dpm++2m, lcm or tcd (the model's own)")
    add(
        "--guidance",
        type=float,
        help="weight of the sound against none (the model's; else 7.5, or 10 with --image)",
    )
    add("--guidance-end", type=float, metavar="SHARE", help="share of the steps that are guided, 0 to 1 (1)")
    add("--fast", action="store_true", help="the same as --sampler dpm++2m --steps 15 --guidance-end 0.6")
    add(
        "--unconditional",
        choices=("text", "silence"),
        default="text",
        help="what guidance moves away from: the negative or empty text, or as in the paper silence and, with --text, "
        "that text (text)",
    )
    add(
        "--cache-interval",
        type=int,
        metavar="N",
        help="of N steps one computes all of the U-Net, the others its finest level alone (1)",
    )
    add(
        "--merge-tokens",
        type=float,
        metavar="SHARE",
        help="share of the positions that the widest self-attentions merge into others, 0 to 0.75 (0)",
    )
    add("--width", type=int, help="of the images in pixels (what the model was trained at)")
    add("--height", type=int, help="of the images in pixels (what the model was trained at)")
    add("--sweep", metavar="NAME=FIRST:LAST:STEP", help="a strip of images: alpha, guidance, strength or steps in turn")


def _add_file_arguments(group: argparse._ArgumentGroup):
    add = group.add_argument
    add("--out", type=Path, default=Path("out"), help="folder of the images (out); with --slide also one file")
    add("--overwrite", action="store_true", help="replace files that are there instead of taking the next free number")
    add("--recipe", type=Path, metavar="FILE", help="make an image or a film again; other flags count over its recipe")
    add("--show", type=Path, metavar="FILE", help="print how an image was made, and make none")


def _window(text: str) -> float | None:
    """Where the second of a sound begins that --window names; None is the loudest."""
    named = {"loudest": None, "first": 0.0}
    try:
        seconds = named[text] if text in named else float(text)
        if seconds is not None and not 0 <= seconds < math.inf:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"it is {text!r}; allowed: loudest, first, or seconds from 0") from None
    return seconds


def _add_study_arguments(group: argparse._ArgumentGroup):
    group.add_argument("--study", type=Path, metavar="CSV|FOLDER", help="the sounds, their captions and the images")
    group.add_argument(
        "--clip", metavar="CLIP", help="scores the images: a folder or repository (of the toy model: toy)"
    )
    group.add_argument("--limit", type=int, metavar="N", help="draw the first N images alone; of --slide, windows")
    group.add_argument("--shard", metavar="i/n", help="draw the i-th of n parts, for several machines and one folder")
    group.add_argument("--dry-run", action="store_true", help="say how many images there are to draw, and how long")
