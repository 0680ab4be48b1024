"""`jaxsd eval`: its flags.

Flags are read here, before anything slow is imported.
"""

import argparse
from pathlib import Path
from typing import Any

from jaxsd.generation.model_arguments import add_place_arguments, add_trust_argument
from jaxsd.runtime import cli
from jaxsd.runtime.files import check_output_folder, lock_folder

TOY_DATA = Path("data/toy")


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
    add_place_arguments(parser)
    add_trust_argument(parser)
    arguments = parser.parse_args()
    check_output_folder(arguments.out)
    with lock_folder(arguments.out):
        _evaluate(arguments)


def _evaluate(arguments: argparse.Namespace):
    import jax

    from jaxsd.evaluation.evaluate import check_image_count, check_repeats, evaluate
    from jaxsd.evaluation.inputs import load_evaluated_encoders, open_evaluation_split, require_split
    from jaxsd.evaluation.report import show, write_report
    from jaxsd.evaluation.results import empty_results, merge_results, read_results
    from jaxsd.evaluation.similarity import AudioImageEmbedding
    from jaxsd.training.initialization import initial_encoder

    results = [read_results(run) for run in arguments.runs if run.endswith(".json")]
    sources = [run for run in arguments.runs if not run.endswith(".json")]
    if sources:
        images, repeats = arguments.pictures, arguments.repeats
        if repeats is None:
            repeats = 1 if jax.default_backend() == "cpu" else 100
        # What can be refused is refused before data are made and models are loaded.
        check_repeats(repeats)
        folder = arguments.data / arguments.split
        maker = _find_maker(folder)
        size = _split_size(folder) or (maker.HELD_OUT if maker else None)
        if not size:
            require_split(folder)
        elif images:
            check_image_count(images, size)
        similarity = AudioImageEmbedding(arguments.similarity) if arguments.similarity else None
        before = initial_encoder if arguments.before else None
        evaluated = load_evaluated_encoders(sources, before=before, trust_code=arguments.trust_code)
        if maker:
            maker.make_split(folder, arguments.split)
        split = open_evaluation_split(folder, clip=arguments.clip, model=arguments.model)
        empty = empty_results(split, arguments.text_pooling, arguments.similarity)
        merge_results([*results, empty])  # refuses before the work, not after
        options: dict[str, Any] = maker.evaluation_options(split, images) if maker else {"image_count": images or 0}
        if arguments.keep_pictures or (arguments.keep_pictures is None and maker):
            options["images_folder"] = arguments.out / "images"
        options["similarity"] = similarity
        results.append(evaluate(evaluated, split, text_pooling=arguments.text_pooling, repeats=repeats, **options))
    merged = merge_results(results)
    page = write_report(merged, arguments.out)
    show(merged)
    print(page)


def _split_size(folder: Path) -> int | None:
    """The examples of a split; None where there is none yet."""
    from jaxsd.data.columns import METADATA, read_metadata

    return read_metadata(folder)["size"] if (folder / METADATA).is_file() else None


def _find_maker(folder: Path):
    """The module that makes the split in `folder`, as its dataset.json says, or where there is none that of a split
    beside it with the maker's models; of TOY_DATA that of the toy world; None where data are not made."""
    from jaxsd.data.columns import METADATA
    from jaxsd.runtime.bundled import load_maker
    from jaxsd.runtime.files import read_json

    own, beside = folder / METADATA, sorted(folder.parent.glob(f"*/{METADATA}"))
    if not own.is_file() and not beside:
        return load_maker("toy") if folder.parent == TOY_DATA else None
    metadata = read_json(own if own.is_file() else beside[0])
    maker = load_maker(metadata["maker"]) if metadata.get("maker") else None
    if maker and not own.is_file() and not maker.MODELS.items() <= metadata.items():
        return None  # it would make data of other models than those beside them
    return maker
