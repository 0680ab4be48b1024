"""The toy world.

python -m jaxsd.toy demo | train | sheet | files | study | reproduce | recipes | questions | splits | recordings
"""

from functools import partial
from pathlib import Path

from jaxsd.runtime import cli
from jaxsd.runtime.files import check_output_folder


def main():
    parser = cli.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("demo", help="train an encoder briefly, evaluate it, draw the sample sounds")
    command.add_argument("--out", type=Path, default=Path("runs/demo"))
    command = commands.add_parser("train", help="train the toy world's models from a seed; goes on where it stopped")
    command.add_argument("--out", type=Path, default=Path("runs/toy-world"))
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--dry-run", action="store_true", help="say what would be trained, and how long it takes")
    command = commands.add_parser("sheet", help="draw the sample sounds with bundled encoders, or others")
    command.add_argument(
        "--out", type=Path, default=Path("out/contact-sheet.png"), help="PNG file; one that is there stays"
    )
    command.add_argument("--encoder", nargs="+", default=["gemini"], help="names or folders, a row each (gemini)")
    command = commands.add_parser("files", help="write examples as files, as somebody's own sounds and images would be")
    command.add_argument("--out", type=Path, required=True, help="a new folder")
    command.add_argument("--size", type=int, required=True, help="how many examples")
    command = commands.add_parser("study", help="write the sounds, captions and images of a study as files")
    command.add_argument("--out", type=Path, required=True, help="a new folder, for generate.py --study")
    command.add_argument("--size", type=int, default=3, help="how many images to start from (3)")
    command = commands.add_parser(
        "reproduce",
        help="train every encoder by the paper's recipe and by what would change in it; goes on where it stopped",
        epilog="--config.KEY=VALUE changes a value of configs/toy.py in every run",
    )
    command.add_argument("--out", type=Path, default=Path("runs/reproduction"))
    command.add_argument("--encoders", nargs="+", help="which encoders (all five)")
    command.add_argument("--recipes", nargs="+", help="which recipes (all)")
    command.add_argument("--seeds", type=int, default=3)
    command.add_argument("--steps", type=int, help="of every training (that of configs/toy.py)")
    command.add_argument("--pictures", type=int, default=50, help="images a run that the judge sees, 0 for none (50)")
    command.add_argument("--section", type=Path, help="the Markdown file to write (OUT/reproduction.md)")
    command.add_argument("--dry-run", action="store_true", help="say what would be trained, and how long it takes")
    command = commands.add_parser(
        "recipes",
        help="compare the recipes by the images they lead to, under several guidances; goes on where it stopped",
        epilog="--config.KEY=VALUE changes a value of configs/toy.py in every run",
    )
    command.add_argument("--out", type=Path, default=Path("runs/recipes"))
    command.add_argument("--encoder", default="gemini", help="which encoder (gemini)")
    command.add_argument("--seeds", type=int, default=3)
    command.add_argument("--pictures", type=int, default=170, help="images of every run and guidance (170)")
    command.add_argument("--section", type=Path, help="the Markdown file to write (OUT/recipes.md)")
    command.add_argument("--dry-run", action="store_true", help="say what would be trained, and how long it takes")
    command = commands.add_parser(
        "questions", help="sound, text or both, in which proportion, how much guidance; goes on where it stopped"
    )
    command.add_argument("--out", type=Path, default=Path("runs/questions"))
    command.add_argument("--encoder", nargs="+", help="names or folders (all five)")
    command.add_argument("--pictures", type=int, default=200, help="images a row (200)")
    command.add_argument("--steps", type=int, help="sampling steps (the model's)")
    command.add_argument("--sampler", help="the sampler (the model's own)")
    command.add_argument("--limit", type=int, metavar="N", help="draw no more than the first N rows (all)")
    command.add_argument("--section", type=Path, help="the Markdown file to write (OUT/questions.md)")
    command.add_argument("--dry-run", action="store_true", help="say how many images would be drawn")
    command = commands.add_parser(
        "splits", help="what a split by row does to recall on videos; goes on where it stopped"
    )
    command.add_argument("--out", type=Path, default=Path("runs/splits"))
    command.add_argument("--encoder", default="gemini", help="which encoder (gemini)")
    command.add_argument("--seeds", type=int, default=5)
    command.add_argument("--videos", type=int, default=160, help="videos in training, and as many new ones (160)")
    command.add_argument("--steps", type=int, default=300, help="of every training (300)")
    command = commands.add_parser("recordings", help="let encoders hear and draw recordings of the ten classes")
    command.add_argument("folder", type=Path, help="holds a folder of sound files for each class, of its name")
    command.add_argument("--out", type=Path, default=Path("runs/recordings"))
    command.add_argument("--encoder", nargs="+", help="names or folders (all five)")
    arguments, overrides = parser.parse_known_args()
    if overrides and arguments.command not in ("reproduce", "recipes"):
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")

    # Imported here, for they import jax: after the arguments are known to be right.
    if arguments.command == "demo":
        from jaxsd.toy.demo import demo

        check_output_folder(arguments.out)
        print(demo(arguments.out))
    elif arguments.command == "train":
        from jaxsd.toy.train_models import train_models

        print(train_models(arguments.out, arguments.seed, dry_run=arguments.dry_run) or "nothing was trained")
    elif arguments.command == "files":
        from jaxsd.toy.world import write_files

        write_files(arguments.out, arguments.size)
        print(arguments.out)
    elif arguments.command == "study":
        from jaxsd.toy.world import write_study_files

        write_study_files(arguments.out, arguments.size)
        print(arguments.out)
    elif arguments.command == "reproduce":
        import encoders
        from jaxsd.config import one_of
        from jaxsd.toy.experiments.reproduction import VARIANTS, reproduce

        if arguments.steps is not None:
            overrides.append(f"--config.steps={arguments.steps}")
        section = reproduce(
            arguments.out,
            encoders=[one_of("encoder", name, encoders.ENCODERS) for name in arguments.encoders or encoders.ENCODERS],
            recipes=[one_of("recipe", name, VARIANTS) for name in arguments.recipes or VARIANTS],
            seeds=arguments.seeds,
            images=arguments.pictures,
            overrides=overrides,
            section=arguments.section,
            dry_run=arguments.dry_run,
        )
        print(section or "nothing was trained")
    elif arguments.command == "recipes":
        from jaxsd.toy.experiments.recipes import compare

        section = compare(
            arguments.out,
            encoder=arguments.encoder,
            seeds=arguments.seeds,
            images=arguments.pictures,
            overrides=overrides,
            section=arguments.section,
            dry_run=arguments.dry_run,
        )
        print(section or "nothing was trained")
    elif arguments.command == "questions":
        import encoders
        from jaxsd.toy.experiments.questions import answer_questions

        section = answer_questions(
            arguments.out,
            encoders=arguments.encoder or list(encoders.ENCODERS),
            images=arguments.pictures,
            steps=arguments.steps,
            sampler=arguments.sampler,
            section=arguments.section,
            limit=arguments.limit,
            dry_run=arguments.dry_run,
        )
        print(section or "nothing was drawn")
    elif arguments.command == "splits":
        from jaxsd.toy.experiments.splits import compare_splits

        print(
            compare_splits(
                arguments.out,
                encoder=arguments.encoder,
                seeds=arguments.seeds,
                videos=arguments.videos,
                steps=arguments.steps,
            )
        )
    elif arguments.command == "recordings":
        import encoders
        from jaxsd.toy.experiments.recordings import measure_recordings

        check_output_folder(arguments.out)
        print(measure_recordings(arguments.folder, arguments.out, arguments.encoder or list(encoders.ENCODERS)))
    else:
        import encoders
        from jaxsd.generation.files import save_file
        from jaxsd.toy.demo import sample_sheet

        if arguments.out.suffix.lower() != ".png" or arguments.out.is_dir():
            raise ValueError(f"--out is {arguments.out}; allowed: the name of a file that ends in .png")
        check_output_folder(arguments.out.parent)
        for name in arguments.encoder:
            encoders.read_config(name)  # refuses before a folder is made
        draw = partial(sample_sheet, sources={name: name for name in arguments.encoder})
        print(save_file(draw, arguments.out, arguments.out.stem, overwrite=False))


if __name__ == "__main__":
    cli.run(main)
