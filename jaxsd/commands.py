"""The commands `jaxsd generate | train | eval | serve | data | convert | encoders | toy | arena`.

Flags are read here, before anything slow is imported.
"""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from jaxsd import cli
from jaxsd.config import add_config_argument, load_config
from jaxsd.files import check_output_folder, lock_folder
from jaxsd.model_arguments import add_trust_argument

# What a command is, and the function that runs it. `jaxsd data` is `python -m jaxsd.data`, and so on.
COMMANDS = {
    "generate": ("turn sounds into images", "jaxsd.generate_command:run_generate"),
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


def main():
    """Run the command that the first argument names, with the rest of the arguments."""
    cli.run(_dispatch)


def _dispatch() -> int | None:
    epilog = "\n".join(f"  {name:<10}{about}" for name, (about, _) in COMMANDS.items())
    parser = cli.ArgumentParser(
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


def run_train():
    parser = cli.ArgumentParser(
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
    parser = cli.ArgumentParser(
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
    check_output_folder(arguments.out)
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
        maker = _find_maker(folder)
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


def _find_maker(folder: Path):
    """The module that makes the split in `folder`, as its dataset.json says, or where there is none that of a split
    beside it with the maker's models; of TOY_DATA that of the toy world; None where data are not made."""
    from jaxsd.bundled import load_maker
    from jaxsd.data.columns import METADATA
    from jaxsd.files import read_json

    own, beside = folder / METADATA, sorted(folder.parent.glob(f"*/{METADATA}"))
    if not own.is_file() and not beside:
        return load_maker("toy") if folder.parent == TOY_DATA else None
    metadata = read_json(own if own.is_file() else beside[0])
    maker = load_maker(metadata["maker"]) if metadata.get("maker") else None
    if maker and not own.is_file() and not maker.MODELS.items() <= metadata.items():
        return None  # it would make data of other models than those beside them
    return maker


def _add_place_arguments(parser: argparse.ArgumentParser):
    parser.add_argument("--clip", help="another place of the CLIP that the data name: a folder or a repository")
    parser.add_argument("--model", help="another place of the Stable Diffusion that the data name")
