"""Evaluate audio encoders on a data set's held-out split: python eval.py runs/gemini runs/grok --data data/avt"""

import argparse
from pathlib import Path

from jaxsd import cli

TOY = Path("data/toy")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "runs",
        nargs="+",
        help="bundled encoders, folders of trained ones (or Hugging Face repositories), Python files with an encoder, "
        "or the results.json of earlier evaluations",
    )
    parser.add_argument("--data", type=Path, default=TOY, help=f"folder of the data set (the toy world, {TOY})")
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
    parser.add_argument("--pictures", type=int, help="pictures a row, 0 for none (200 in the toy world, else 0)")
    arguments = parser.parse_args()

    import jax  # after the arguments are known to be right, as all that imports it

    from jaxsd.bundled import load_maker
    from jaxsd.data.columns import ABOUT
    from jaxsd.evaluation import evaluate as evaluation
    from jaxsd.evaluation import report
    from jaxsd.evaluation.inputs import load_evaluated_encoders, open_evaluation_split
    from jaxsd.files import read_json

    earlier = [report.read(run) for run in arguments.runs if run.endswith(".json")]
    runs = [run for run in arguments.runs if not run.endswith(".json")]
    if runs:
        subjects = load_evaluated_encoders(runs, before=arguments.before)
        folder = arguments.data / arguments.split
        maker = read_json(folder / ABOUT).get("maker") if (folder / ABOUT).is_file() else None
        if arguments.data == TOY and not folder.exists():
            maker = "toy"
        if maker:
            load_maker(maker).make_split(folder, arguments.split)
        split = open_evaluation_split(folder)
        options = load_maker(maker).evaluation_options(split, arguments.pictures) if maker else {}
        if arguments.pictures and not maker:
            options = {"drawing": evaluation.Drawing(arguments.pictures, guidance=7.5, steps=50)}
        report.merge(
            [*earlier, evaluation.empty_results(split, arguments.text_pooling)]
        )  # refuses before the work, not after
        on_cpu = jax.default_backend() == "cpu"
        earlier.append(
            evaluation.evaluate(
                subjects,
                split,
                text_pooling=arguments.text_pooling,
                repeats=arguments.repeats if arguments.repeats is not None else 1 if on_cpu else 100,
                **options,
            )
        )
    results = report.merge(earlier)
    page = report.write(results, arguments.out)
    report.show(results)
    print(page)


if __name__ == "__main__":
    cli.run(main)
