"""Kills commands with `kill -9` at random moments: python -m tests.fuzz.kills [--kills 10] [--seed 0] [--ray]

After every kill each file is whole or not there under its own name. In the end the command is let through, and what it
leaves is, byte for byte, what a command leaves that was not killed.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import safe_open

from jaxsd.data.columns import METADATA
from jaxsd.runtime import cli
from jaxsd.runtime.files import read_json
from tests.helpers.data_files import write_files
from tests.helpers.videos import write_video

ROOT = Path(__file__).parents[2]
ENDLESS = 600  # seconds


def commands(folder: Path) -> dict[str, list[str]]:
    """The arguments of each command, less --out."""
    manifest, _ = write_files(folder / "source", 600, 0.0)
    (folder / "videos").mkdir()
    for number in range(12):
        write_video(folder / "videos" / f"{number}.mp4", 6.0, seed=number)
    captions = folder / "captions.csv"
    captions.write_text("file,text\n" + "".join(f"{number}.mp4,blocks {number}\n" for number in range(12)))
    training = {"steps": 40, "warmup": 2, "batch_size": 16, "save_every": 4, "eval_every": 20, "sample_images": 0}
    training |= {"data.train_size": 64, "data.held_out": 16, "data.folder": folder / "toy"}
    return {
        "train": ["train.py", "--config", "toy.py", *(f"--config.{key}={value}" for key, value in training.items())],
        "prepare": ["-m", "jaxsd.data", "prepare", str(manifest), "--clip", "toy", "--latents", "--model", "toy"],
        "cut": ["-m", "jaxsd.data", "cut", str(folder / "videos"), "--captions", str(captions)],
        "generate": ["generate.py", "--audio", "dog", "bell", "bird", "--count", "12", "--steps", "5", "--overwrite"],
    }


def start(arguments: list[str], out: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *arguments, "--out", str(out)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(arguments: list[str], out: Path) -> float:
    """Let a command end; the seconds that it took."""
    begin = time.monotonic()
    process = start(arguments, out)
    _, errors = process.communicate(timeout=ENDLESS)
    assert process.returncode == 0, errors
    return time.monotonic() - begin


def check_whole(folder: Path):
    """Read every file that has its own name; columns count where dataset.json says that they are finished."""
    for path in folder.rglob("*"):
        if ".part" in path.name or "checkpoints" in path.parts:
            continue
        if path.suffix == ".png":
            Image.open(path).load()
        elif path.suffix == ".json":
            read_json(path)
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="numpy") as file:
                assert all(np.isfinite(file.get_tensor(key)).all() for key in file.keys())
        elif path.suffix == ".npy" and (path.parent / METADATA).is_file():
            np.load(path, mmap_mode="r")


def results(folder: Path) -> dict[str, bytes]:
    """What a command is run for, by name."""
    suffixes = (".png", ".npy", ".safetensors", ".wav", ".jpg", ".csv")
    paths = [path for suffix in suffixes for path in folder.rglob(f"*{suffix}")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.name != "curves.png"}


def kill(arguments: list[str], folder: Path, kills: int, seed: int, flags: tuple[str, ...] = ()) -> str:
    """Kill a command with `flags` so often, then let it end as one without them does; what was seen."""
    whole, broken = folder / "whole", folder / "broken"
    finish(arguments, whole)  # which makes data and compiles
    arguments = [*arguments, *flags]
    seconds = finish(arguments, folder / "again")
    chance = random.Random(seed)
    met = {"killed": 0, "with results there": 0, "with a partial file there": 0}
    while met["killed"] < kills:
        process = start(arguments, broken)
        time.sleep(chance.uniform(0.1, 0.9) * seconds)
        if process.poll() is not None:  # it goes on where it was, and so may end early
            assert process.returncode == 0, process.communicate()[1]
            shutil.rmtree(broken)
            continue
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        met["killed"] += 1
        if broken.is_dir():
            check_whole(broken)
            met["with results there"] += bool(results(broken))
            met["with a partial file there"] += any(".part" in path.name for path in broken.rglob("*"))
    finish(arguments, broken)
    check_whole(broken)
    expected, found = results(whole), {name: data for name, data in results(broken).items() if ".part" not in name}
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    assert not (different := [name for name in expected if expected[name] != found[name]]), different
    return ", ".join(f"{name} {count}" for name, count in met.items())


def main():
    parser = cli.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="of each command (10)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", choices=("train", "prepare", "cut", "generate"))
    parser.add_argument("--ray", action="store_true", help="prepare and cut on a Ray cluster of this machine")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, command in commands(Path(folder)).items():
            if name in (arguments.commands or (("prepare", "cut") if arguments.ray else (name,))):
                flags = ("--ray", "local") if arguments.ray else ()
                met = kill(command, Path(folder) / name, arguments.kills, arguments.seed, flags)
                print(f"{name}: {met}; the result is that of a run left alone", flush=True)


if __name__ == "__main__":
    main()
