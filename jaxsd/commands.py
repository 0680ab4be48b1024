"""The commands `jaxsd generate | train | eval | serve | data | convert | encoders | toy | arena`.

Flags are read here, before anything slow is imported.
"""

import argparse
import importlib
import sys
import time
from pathlib import Path
from typing import Any

from jaxsd import cli
from jaxsd.config import add_config_argument, load_config
from jaxsd.files import lock_folder
from jaxsd.model_arguments import add_model_arguments, add_trust_argument, load_model

# What a command is, and the function that runs it. `jaxsd data` is `python -m jaxsd.data`, and so on.
COMMANDS = {
    "generate": ("turn sounds into images", "jaxsd.commands:run_generate"),
    "train": ("train an audio encoder", "jaxsd.commands:run_train"),
    "eval": ("evaluate audio encoders on held-out data", "jaxsd.commands:run_eval"),
    "serve": ("a page to play with, and its API", "jaxsd.serving.__main__:main"),
    "data": ("prepare a data set of one's own, or look at one", "jaxsd.data.__main__:main"),
    "convert": ("convert encoders from and to PyTorch", "jaxsd.convert.__main__:main"),
    "encoders": ("list encoders, check one, count its layers", "encoders.__main__:main"),
    "toy": ("the built-in toy world: demo, training, experiments", "jaxsd.toy.__main__:main"),
    "arena": ("ask a chatbot for an encoder and check it in a sandbox", "jaxsd.arena.__main__:main"),
}
TOY_DATA = Path("data/toy")
STUDY_ONLY = ("clip", "limit", "shard", "dry_run")
NOT_IN_STUDY = ("audio", "text", "image", "mask", "outpaint", "weights", "mix", "sound_weights", "alpha", "random")
NOT_IN_STUDY += ("negative", "overwrite", "recipe", "show")


def main():
    """Run the command that the first argument names, with the rest of the arguments."""
    cli.run(_dispatch)


def _dispatch() -> int | None:
    epilog = "\n".join(f"  {name:<10}{about}" for name, (about, _) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="jaxsd",
        description="Sound to image: audio encoders and Stable Diffusion 1.x in JAX.",
        epilog=f"commands (each has its own --help):\n{epilog}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("command", nargs="?", choices=COMMANDS, metavar="COMMAND")
    arguments = parser.parse_args(sys.argv[1:2])
    if arguments.version:
        import jaxsd

        print(jaxsd.__version__)
        return None
    if arguments.command is None:
        parser.print_help()
        return None
    sys.argv = [f"jaxsd {arguments.command}", *sys.argv[2:]]
    module, _, function = COMMANDS[arguments.command][1].partition(":")
    return getattr(importlib.import_module(module), function)()


def run_generate():
    if "--serve" in sys.argv[1:]:
        from jaxsd.serving.__main__ import main as serve

        sys.argv.remove("--serve")
        return serve()
    parser = argparse.ArgumentParser(description="Turn sounds into images: python generate.py --audio dog.wav")
    add = parser.add_argument
    add("--audio", nargs="+", default=[], metavar="FILE", help="sound files, or names of the sample sounds")
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
    add("--random", action="store_true", help="random embeddings in place of sounds and texts, the paper's baseline")
    add_model_arguments(parser)
    add(
        "--lora",
        nargs="+",
        default=[],
        metavar="FILE[:WEIGHT]",
        help="LoRAs: files, folders or repositories, each with its weight (1)",
    )
    add("--sweep", metavar="NAME=FIRST:LAST:STEP", help="a strip of images: alpha, guidance, strength or steps in turn")
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
    add("--negative", default="", metavar="TEXT", help="what the images should not show")
    add(
        "--unconditional",
        choices=("text", "silence"),
        default="text",
        help="what guidance moves away from: the negative or empty text, or as in the paper silence and, with --text, "
        "that text (text)",
    )
    add(
        "--guidance",
        type=float,
        help="weight of the sound against none (the model's; else 7.5, or 10 with --image)",
    )
    add("--guidance-end", type=float, metavar="SHARE", help="share of the steps that are guided, 0 to 1 (1)")
    add("--fast", action="store_true", help="the same as --sampler dpm++2m --steps 15 --guidance-end 0.6")
    add("--steps", type=int, help="denoising steps (the model's; else 100, or 200 with --image)")
    add("--sampler", help="ddim, pndm, lms, euler, euler_a, dpm++2m, lcm or tcd (the model's own)")
    add("--width", type=int, help="of the images in pixels (what the model was trained at)")
    add("--height", type=int, help="of the images in pixels (what the model was trained at)")
    add("--count", type=int, help="images a sound (1), or of each input, conditioning and mode of a study (2)")
    add("--seed", type=int, default=0, help="of the noise the images start from (0)")
    add(
        "--recipe",
        type=Path,
        metavar="PNG",
        help="make an image again; other flags count over its recipe",
    )
    add("--show", type=Path, metavar="PNG", help="print how an image was made, and make none")
    add("--out", type=Path, default=Path("out"), metavar="FOLDER", help="where the images go (out)")
    add("--overwrite", action="store_true", help="replace files that are there instead of taking the next free number")
    add("--serve", action="store_true", help="show a page to play with; its flags: --serve --help")
    _add_study_arguments(parser)
    add_trust_argument(parser)
    parser.set_defaults(first=0, batch=None)
    arguments = parser.parse_args()
    if arguments.study:
        return _draw_study(parser, arguments)
    _refuse_given(parser, arguments, STUDY_ONLY, "is for a study; give --study, or leave it out")
    if arguments.show:
        from jaxsd.recipe import describe_recipe, read_recipe

        print(describe_recipe(read_recipe(arguments.show)))
        return
    recipe = None
    if arguments.recipe:
        arguments, recipe = _follow_recipe(parser, arguments)
    else:
        arguments.encoder, arguments.model = arguments.encoder or ["gemini"], arguments.model or "toy"
    arguments.count = 1 if arguments.count is None else arguments.count

    from jaxsd.bundled import model_source
    from jaxsd.diffusion.loading import require_tokenizer
    from jaxsd.generation import read_inputs, write_images, write_sweep
    from jaxsd.remake import check_ingredients
    from jaxsd.sound_to_image import image_keys

    if arguments.alpha is not None and not (arguments.audio and arguments.text):
        raise ValueError("--alpha is the share of the text beside sounds; give --audio and --text")
    sweep = _read_sweep(arguments)
    if (arguments.mix or arguments.sound_weights) and not arguments.audio:
        raise ValueError("--mix and --sound-weights are for sounds; give --audio")
    inputs = read_inputs(arguments.audio, arguments.text, arguments.image, mix=arguments.mix, random=arguments.random)
    image, mask = _read_mask(arguments, inputs.image)
    if (arguments.text or arguments.negative) and not arguments.tokenizer:
        require_tokenizer(model_source(arguments.model))
    model = _load_with_loras(arguments, arguments.encoder if arguments.audio else [], arguments.weights)
    sampling = _given_sampling(arguments)
    defaults = model.sampling_defaults(image=inputs.image is not None)
    for name in ("guidance", "steps"):
        sampling.setdefault(name, getattr(defaults, name))
    mixing: dict[str, Any] = {
        "mix": arguments.mix,
        "sound_weights": arguments.sound_weights,
        "negative": arguments.negative,
    }
    alpha = 0.5 if arguments.alpha is None else arguments.alpha
    alphas = [alpha] if sweep is None else sweep.values if sweep.name == "alpha" else [alpha] * len(sweep.values)
    if arguments.random:
        numbers = range(arguments.first, arguments.first + max(arguments.count, 1))
        conditionings = [model.random(image_keys(arguments.seed, numbers))] * len(alphas)
    else:
        guided = model.is_guided(sampling["guidance"]) or sweep is not None and sweep.name == "guidance"
        mixing["unconditional"] = arguments.unconditional if guided else None
        if sweep is not None and sweep.name == "alpha":
            conditionings = model.encode_alphas(alphas, inputs.clips, inputs.prompts, **mixing)
        else:
            conditionings = [model.encode(inputs.clips, inputs.prompts, **mixing, alpha=alpha)] * len(alphas)
    sampling["strength"] = arguments.strength
    given_images: dict[str, Any] = {"image": inputs.image, "mask": mask if arguments.mask else None}
    recipes = model.recipes(
        [sound.record for sound in inputs.sounds],
        inputs.prompts,
        **mixing | {"unconditional": arguments.unconditional},
        alpha=alpha,
        sweep=arguments.sweep,
        random=arguments.random,
        seed=arguments.seed,
        outpaint=arguments.outpaint,
        **given_images,
        **sampling,
    )
    if recipe:
        check_ingredients(arguments.recipe, recipe, recipes[0])
    stems = ["random"] if arguments.random else inputs.stems
    options: dict[str, Any] = {
        name: getattr(arguments, name) for name in ("count", "first", "batch", "seed", "overwrite")
    }
    options |= {"recipes": recipes, "image": image, "mask": mask, **sampling}
    if sweep:
        paths = write_sweep(model.pipe, sweep, conditionings, stems, arguments.out, **options)
    else:
        paths = write_images(model.pipe, conditionings[0], stems, arguments.out, **options)
    for path in paths:
        print(path)


def _read_sweep(arguments: argparse.Namespace):
    """The sweep that is asked for, or None."""
    from jaxsd.sweeps import parse_sweep

    if arguments.sweep is None:
        return None
    sweep = parse_sweep(arguments.sweep)
    if getattr(arguments, sweep.name) is not None and not arguments.recipe:
        raise ValueError(f"--sweep sets {sweep.name}; leave --{sweep.name} out")
    if sweep.name == "alpha" and not (arguments.audio and arguments.text):
        raise ValueError("--sweep alpha is the share of the text beside sounds; give --audio and --text")
    if sweep.name == "strength" and not arguments.image:
        raise ValueError("--sweep strength is for an image to start from; give --image")
    return sweep


def _follow_recipe(parser: argparse.ArgumentParser, named: argparse.Namespace):
    """The arguments that a recipe stands for, with those of the command line over them, and the recipe."""
    from jaxsd.recipe import read_recipe
    from jaxsd.remake import find_ingredients, recipe_flags

    if named.fast:
        raise ValueError("--fast stands for a sampler and steps, which --recipe has; leave one of them out")
    recipe = read_recipe(named.recipe)
    arguments = parser.parse_args(namespace=argparse.Namespace(**recipe_flags(recipe)))
    for name, value in find_ingredients(named.recipe, recipe, vars(named)).items():
        setattr(arguments, name, value)
    return arguments, recipe


def _load_with_loras(arguments: argparse.Namespace, names: list[str], weights: list[float] | None = None):
    """`load_model`, with the LoRAs that the flags name."""
    from jaxsd.diffusion.lora import parse_lora

    model = load_model(arguments, names, weights)
    for source, weight in map(parse_lora, arguments.lora):
        model.pipe.load_lora(source, weight)
    return model


def _given_sampling(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the flags say of sampling, less what an image to start from needs."""
    from jaxsd.diffusion.sampling_defaults import FAST

    names = ("guidance", "guidance_end", "steps", "sampler", "height", "width")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    return {**(FAST if arguments.fast else {}), **given}


def _add_study_arguments(parser: argparse.ArgumentParser):
    group = parser.add_argument_group("a study: every conditioning, mode and input, and a page of them")
    group.add_argument("--study", type=Path, metavar="CSV|FOLDER", help="the sounds, their captions and the images")
    group.add_argument(
        "--clip", metavar="CLIP", help="scores the images: a folder or repository (of the toy model: toy)"
    )
    group.add_argument("--limit", type=int, metavar="N", help="draw no more than the first N images")
    group.add_argument("--shard", metavar="i/n", help="draw the i-th of n parts, for several machines and one folder")
    group.add_argument("--dry-run", action="store_true", help="say how many images there are to draw, and how long")


def _draw_study(parser: argparse.ArgumentParser, arguments: argparse.Namespace):
    """`--study`: draw what is missing of it, and write the page."""
    began = time.monotonic()
    _refuse_given(parser, arguments, NOT_IN_STUDY, "is not for a study, which has every input and mode; leave it out")

    from encoders import ENCODERS
    from jaxsd.bundled import model_source
    from jaxsd.diffusion.loading import require_tokenizer
    from jaxsd.study.draw import Study
    from jaxsd.study.inputs import read_study
    from jaxsd.study.plan import parse_shard, study_conditionings
    from jaxsd.study.run import run_study

    arguments.model = arguments.model or "toy"
    shard = parse_shard(arguments.shard or "1/1")
    inputs = read_study(arguments.study)
    names = arguments.encoder or list(ENCODERS)
    conditionings = study_conditionings(names)
    if not arguments.tokenizer:
        require_tokenizer(model_source(arguments.model))
    copies = 2 if arguments.count is None else arguments.count
    if copies < 1:
        raise ValueError(f"--count is {copies}; allowed: 1 or more")
    sampling = _given_sampling(arguments)
    if arguments.strength is not None:
        sampling["strength"] = arguments.strength
    study = Study(
        arguments.out,
        inputs,
        _load_with_loras(arguments, names),
        conditionings,
        sampling,
        copies=copies,
        seed=arguments.seed,
        unconditional=arguments.unconditional,
    )
    toy = "toy" if arguments.model == "toy" else None
    page = run_study(
        study,
        clip=arguments.clip or toy,
        judge=toy,
        limit=arguments.limit,
        shard=shard,
        dry_run=arguments.dry_run,
        began=began,
    )
    if page:
        print(page)


def _refuse_given(parser: argparse.ArgumentParser, arguments: argparse.Namespace, names: tuple[str, ...], why: str):
    """Raise ValueError where one of these flags was given."""
    for name in names:
        if getattr(arguments, name) != parser.get_default(name):
            raise ValueError(f"--{name.replace('_', '-')} {why}")


def _read_mask(arguments: argparse.Namespace, image):
    """The image to start from, grown by --outpaint, and what of it is painted anew; None without."""
    from jaxsd.clip.images import load_image
    from jaxsd.diffusion.images import pad_image

    if image is None:
        if arguments.mask or arguments.outpaint:
            raise ValueError("--mask and --outpaint need the image that they are for; give --image")
        return None, None
    if arguments.mask and arguments.outpaint:
        raise ValueError("--mask and --outpaint cannot be had together: draw the border into the image and the mask")
    if arguments.outpaint:
        return pad_image(image, *arguments.outpaint)
    return image, load_image(arguments.mask) if arguments.mask else None


def run_train():
    parser = argparse.ArgumentParser(
        description="Train an audio encoder: python train.py --config gemini.py:aligned --config.data.folder=data/avt"
    )
    add_config_argument(parser)
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/<config>); goes on if it has begun")
    parser.add_argument("--init", metavar="FOLDER", help="start from another run's encoder; same as --config.init")
    parser.add_argument("--wandb", action="store_true", help="also log to Weights & Biases")
    _add_place_arguments(parser)
    cli.add_distributed_arguments(parser)
    arguments, overrides = parser.parse_known_args()
    if arguments.init:
        overrides.append(f"--config.init={arguments.init}")
    config = load_config(arguments.config, overrides)
    name, _, recipe = arguments.config.partition(":")
    out = arguments.out or Path("runs") / "-".join([Path(name).stem, recipe]).rstrip("-")
    cli.start_distributed(arguments)

    from jaxsd.training.train import next_commands, train

    train(config, out, wandb=arguments.wandb, clip=arguments.clip, model=arguments.model)
    print(out)
    program = "jaxsd {}" if cli.program().startswith("jaxsd ") else "python {}.py"
    for command in next_commands(config, out, program):
        print(f"next: {command}", file=sys.stderr)


def run_eval():
    parser = argparse.ArgumentParser(
        description="Evaluate audio encoders on a data set's held-out split: "
        "python eval.py runs/gemini runs/grok --data data/avt"
    )
    parser.add_argument(
        "runs",
        nargs="+",
        help="bundled encoders, folders of trained ones (or Hugging Face repositories), Python files with an encoder, "
        "or the results.json of earlier evaluations",
    )
    parser.add_argument(
        "--data", type=Path, default=TOY_DATA, help=f"folder of the data set (the toy world, {TOY_DATA})"
    )
    parser.add_argument("--split", default="test", help="its split (test)")
    parser.add_argument("--out", type=Path, default=Path("out/evaluation"), help="folder of the report")
    parser.add_argument(
        "--text-pooling",
        choices=("eos", "bos"),
        default="eos",
        help="text target of the paper's figures: at the end of the text (eos), or at its start, always the same (bos)",
    )
    parser.add_argument("--before", action="store_true", help="also the runs' encoders before training, as in Table 3")
    parser.add_argument(
        "--repeats", type=int, help="times that encoding is timed, 0 for never (100 on an accelerator, 1 on a CPU)"
    )
    parser.add_argument("--pictures", type=int, help="images a conditioning, 0 for none (200 in the toy world, else 0)")
    parser.add_argument(
        "--similarity",
        metavar="FILE.py:CLASS",
        help="an embedding of sounds and images of your own for AIS (the encoder's and CLIP's)",
    )
    parser.add_argument(
        "--keep-pictures",
        action=argparse.BooleanOptionalAction,
        help="write the images into OUT/images, and some into the report (on in the toy world)",
    )
    _add_place_arguments(parser)
    add_trust_argument(parser)
    arguments = parser.parse_args()
    with lock_folder(arguments.out):
        _evaluate(arguments)


def _evaluate(arguments: argparse.Namespace):
    import jax

    from jaxsd.evaluation.evaluate import evaluate
    from jaxsd.evaluation.inputs import load_evaluated_encoders, open_evaluation_split
    from jaxsd.evaluation.report import show, write_report
    from jaxsd.evaluation.results import empty_results, merge_results, read_results
    from jaxsd.evaluation.similarity import AudioImageEmbedding
    from jaxsd.training.initialization import initial_encoder

    results = [read_results(run) for run in arguments.runs if run.endswith(".json")]
    sources = [run for run in arguments.runs if not run.endswith(".json")]
    if sources:
        before = initial_encoder if arguments.before else None
        evaluated = load_evaluated_encoders(sources, before=before, trust_code=arguments.trust_code)
        folder = arguments.data / arguments.split
        maker = _find_maker(folder, made="toy" if arguments.data == TOY_DATA else None)
        if maker:
            maker.make_split(folder, arguments.split)
        split = open_evaluation_split(folder, clip=arguments.clip, model=arguments.model)
        similarity = AudioImageEmbedding(arguments.similarity) if arguments.similarity else None
        empty = empty_results(split, arguments.text_pooling, arguments.similarity)
        merge_results([*results, empty])  # refuses before the work, not after
        repeats = arguments.repeats
        if repeats is None:
            repeats = 1 if jax.default_backend() == "cpu" else 100
        images = arguments.pictures
        options: dict[str, Any] = maker.evaluation_options(split, images) if maker else {"image_count": images or 0}
        if arguments.keep_pictures or (arguments.keep_pictures is None and maker):
            options["images_folder"] = arguments.out / "images"
        options["similarity"] = similarity
        results.append(evaluate(evaluated, split, text_pooling=arguments.text_pooling, repeats=repeats, **options))
    merged = merge_results(results)
    page = write_report(merged, arguments.out)
    show(merged)
    print(page)


def _find_maker(folder: Path, made: str | None):
    """The module that makes the data set in `folder`, as its dataset.json says; that of the name `made` where nothing
    is there yet; None where data are not made."""
    from jaxsd.bundled import load_maker
    from jaxsd.data.columns import METADATA
    from jaxsd.files import read_json

    about = folder / METADATA
    name = read_json(about).get("maker") if about.is_file() else made
    return load_maker(name) if name else None


def _add_place_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("--clip", help="another place of the CLIP that the data name: a folder or a repository")
    parser.add_argument("--model", help="another place of the Stable Diffusion that the data name")
