"""Data sets on disk: python -m jaxsd.data cut | prepare | info | toy."""

import argparse
from pathlib import Path

from jaxsd.runtime import cli
from jaxsd.runtime.files import check_output_folder

DEFAULT_CLIP = "openai/clip-vit-large-patch14"
DEFAULT_DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-v1-5"
RAY_HELP = "a Ray cluster that does it, or `local`; --workers are then the processes of an actor (default: 1)"


def main():
    parser = cli.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_cut(commands.add_parser("cut", help="cut videos into seconds of sound with a frame and a caption"))
    _add_prepare(commands.add_parser("prepare", help="make a data set of one's own sounds, images and captions"))
    command = commands.add_parser("info", help="say what a data set holds, and verify it")
    command.add_argument("folder", type=Path, metavar="DIR", help="a data set, or one split of it")
    command = commands.add_parser("toy", help="write the toy world as a data set")
    command.add_argument("--out", type=Path, required=True, help="folder of the data set")
    command.add_argument("--size", type=int, required=True, help="examples to train on")
    command.add_argument(
        "--held-out", type=int, default=1_000, help="examples each of validation and test (default: 1000)"
    )
    command.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    # Imported here, for they import jax: after the arguments are known to be right.
    if arguments.command == "cut":
        _cut(arguments)
    elif arguments.command == "prepare":
        _prepare(arguments)
    elif arguments.command == "info":
        from jaxsd.data.info import info

        info(arguments.folder)
    else:
        from jaxsd.runtime.bundled import load_maker

        check_output_folder(arguments.out)
        sizes = {"train": arguments.size, "validation": arguments.held_out, "test": arguments.held_out}
        made = load_maker("toy").make_dataset(arguments.out, sizes, seed=arguments.seed)
        print(arguments.out if made else f"{arguments.out}: all there, nothing to do")


def _add_cut(command: argparse.ArgumentParser):
    add = command.add_argument
    add("videos", nargs="+", type=Path, metavar="VIDEOS", help="video files, or folders of them")
    add("--out", type=Path, required=True, help="folder of the clips and manifest.csv; goes on if it has begun")
    add("--stride", type=float, default=1.0, metavar="S", help="seconds from one clip to the next (default: 1)")
    add("--min-loudness", type=float, default=-50.0, metavar="DB", help="quieter seconds are left out (default: -50)")
    add("--max-clipped", type=float, default=0.01, metavar="SHARE", help="samples at full scale (default: 0.01)")
    add("--min-motion", type=float, default=0.5, metavar="LEVELS", help="gray levels of 255 (default: 0.5)")
    add("--side", type=int, default=512, help="pixels of a frame's shortest side (default: 512, or what it has)")
    add("--captions", metavar="FILE", help="a table with columns file, start, text; VGGSound's csv; or `subtitles`")
    add("--candidates", type=Path, metavar="FILE", help="captions or words, one a line, for CLIP to choose from")
    add("--template", action="append", metavar="TEXT", help="of a candidate, {} being it (default: a photo of {})")
    add("--caption-command", metavar="CMD", help="reads paths of images, one a line, and writes a caption a line")
    add("--clip", metavar="MODEL", help="folder, id or `toy`: chooses among the candidates and scores the pairs")
    add("--part", type=float, metavar="S", help="a group is so many seconds of a video (default: the whole video)")
    add("--leave-out", type=float, default=0.0, metavar="SHARE", help="pairs of the lowest score (default: 0)")
    add("--workers", type=int, help="processes that read videos (default: one a core)")
    add("--ray", metavar="ADDRESS", help=RAY_HELP)


def _cut(arguments: argparse.Namespace):
    from jaxsd.data.captions import SUBTITLES, TEMPLATES
    from jaxsd.data.cut import MANIFEST_NAME, CutOptions, cut_videos

    check_output_folder(arguments.out)
    options = CutOptions(
        arguments.stride,
        arguments.min_loudness,
        arguments.max_clipped,
        arguments.min_motion,
        arguments.side,
        arguments.captions == SUBTITLES,
    )
    summary = cut_videos(
        arguments.videos,
        arguments.out,
        options=options,
        captions=arguments.captions,
        candidates=arguments.candidates,
        templates=arguments.template or TEMPLATES,
        command=arguments.caption_command,
        clip=arguments.clip,
        leave_out=arguments.leave_out,
        part=arguments.part,
        workers=arguments.workers,
        ray=arguments.ray,
    )
    print(arguments.out / MANIFEST_NAME)
    print(summary)


def _add_prepare(command: argparse.ArgumentParser):
    command.add_argument(
        "source",
        metavar="SOURCE",
        help="a .csv, .jsonl or .parquet file with columns audio, image (paths relative to it) and text, and if wanted "
        "start (seconds), split (train, validation, test), group and class; or files in another layout; "
        "a path or a URL such as s3://bucket/clips.csv",
    )
    command.add_argument(
        "--layout",
        metavar="NAME",
        help="manifest, same-named, vggsound, audiofolder, parquet or webdataset (default: it is recognized)",
    )
    command.add_argument("--out", type=Path, required=True, help="folder of the data set; goes on if it has begun")
    command.add_argument(
        "--clip", default=DEFAULT_CLIP, metavar="MODEL", help=f"folder, id or `toy` (default: {DEFAULT_CLIP})"
    )
    command.add_argument("--revision", help="branch, tag or commit of the CLIP on the hub")
    command.add_argument("--variant", help="part of the file names of the CLIP's and the VAE's weights, such as fp16")
    command.add_argument("--tokenizer", help="a folder or repository in place of the CLIP's own tokenizer")
    command.add_argument("--latents", action="store_true", help="also store the VAE's latents of the images")
    command.add_argument(
        "--model", default=DEFAULT_DIFFUSION, help=f"whose VAE: folder, id or `toy` (default: {DEFAULT_DIFFUSION})"
    )
    command.add_argument("--vae", help="a folder or .safetensors file with a VAE in place of that model's own")
    command.add_argument("--size", type=int, help="side in pixels of the images that become latents")
    command.add_argument(
        "--validation", metavar="N|SHARE", help="rows to validate on (default: an eighth, at most 500)"
    )
    command.add_argument("--test", metavar="N|SHARE", help="rows to test on (default: likewise)")
    command.add_argument("--seed", type=int, default=0, help="of the splits (default: 0)")
    command.add_argument(
        "--max-bad", type=float, default=0.05, metavar="SHARE", help="fail if more rows are bad (default: 0.05)"
    )
    command.add_argument("--workers", type=int, help="processes that read files (default: one a core)")
    command.add_argument("--ray", metavar="ADDRESS", help=RAY_HELP)
    cli.add_distributed_arguments(command)


def _prepare(arguments: argparse.Namespace):
    check_output_folder(arguments.out)
    cli.start_distributed(arguments)
    from jaxsd.data.prepare import prepare_dataset, summarize

    made = prepare_dataset(
        arguments.source,
        arguments.out,
        layout=arguments.layout,
        clip=arguments.clip,
        revision=arguments.revision,
        variant=arguments.variant,
        tokenizer=arguments.tokenizer,
        diffusion=arguments.model if arguments.latents else None,
        vae=arguments.vae,
        size=arguments.size,
        validation=arguments.validation,
        test=arguments.test,
        seed=arguments.seed,
        max_bad=arguments.max_bad,
        workers=arguments.workers,
        ray=arguments.ray,
    )
    print(arguments.out if made else f"{arguments.out}: all there, nothing to do")
    print(summarize(arguments.out))


if __name__ == "__main__":
    cli.run(main)
