"""Runs every command at the published sizes, from files to images, and prints the seconds and the memory of each.

python -m benchmarks.rehearsal --out /tmp/rehearsal [--only "eval"]

Stable Diffusion 1.5, CLIP ViT-L/14 and a vocabulary of their size have random weights. They are written first, unless
they are there, as a folder, as one file and as a CLIP folder (10 GB). The data are sounds with images of noise.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice, product
from pathlib import Path

import numpy as np
from flax import nnx
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel

from jaxsd.clip.pipeline import CLIP, Preprocessing
from jaxsd.clip.tokens import load_tokenizer
from jaxsd.clip.towers import CLIPModel, TextModel, VisionConfig
from jaxsd.diffusion.loading import SD15_TEXT, SD15_UNET, SD15_VAE
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.diffusion.samplers import NoiseSchedule
from jaxsd.diffusion.single_file import single_file_mapping
from jaxsd.diffusion.unet import UNet
from jaxsd.diffusion.vae import VAE
from jaxsd.pretrained.mapping import export_parameters
from jaxsd.pretrained.weights import write_safetensors
from jaxsd.runtime import cli
from jaxsd.runtime.bundled import TOY_SAMPLES
from jaxsd.runtime.files import write_json

ROOT = Path(__file__).parents[1]
SOURCES = {"source": 12, "source-200": 200}  # folders and how many examples they hold
VIT_L_14 = VisionConfig(
    hidden_size=1024, intermediate_size=4096, num_attention_heads=16, num_hidden_layers=24, patch_size=14
)


def write_tokenizer(folder: Path):
    """Write a byte-pair vocabulary of CLIP's size, whose merges are the first pairs of bytes."""
    folder.mkdir()
    letters = sorted(ByteLevel.alphabet())
    ends = [letter + "</w>" for letter in letters]
    merges = list(islice(product(letters, letters + ends), SD15_TEXT.vocab_size - 2 - 2 * len(letters)))
    tokens = [*letters, *ends, *(first + second for first, second in merges), "<|startoftext|>", "<|endoftext|>"]
    write_json(folder / "vocab.json", {token: index for index, token in enumerate(tokens)})
    lines = ["#version: 0.2", *(f"{first} {second}" for first, second in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_models(folder: Path):
    """Write `sd15` (in diffusers' layout), `sd15.safetensors` (in one file) and `clip` into `folder`, in float32."""
    write_tokenizer(folder / "tokenizer")
    rngs = nnx.Rngs(0)
    unet, vae, text = UNet(SD15_UNET, rngs=rngs), VAE(SD15_VAE, rngs=rngs), TextModel(SD15_TEXT, rngs=rngs)
    tokenizer = load_tokenizer(folder / "tokenizer", SD15_TEXT)
    StableDiffusion(unet, vae, text, tokenizer, NoiseSchedule()).save_pretrained(folder / "sd15")
    parts = nnx.Dict(unet=unet, vae=vae, text_encoder=text)
    mapping = single_file_mapping(SD15_UNET, len(SD15_VAE.block_out_channels))
    write_safetensors(export_parameters(parts, mapping, np.float32), folder / "sd15.safetensors")
    del unet, vae, parts
    model = CLIPModel(SD15_TEXT, VIT_L_14, 768, rngs=rngs)
    CLIP(model, tokenizer, Preprocessing()).save_pretrained(folder / "clip")


def write_source(folder: Path, examples: int):
    """Write sounds, images of noise and the manifest that lists them."""
    rng = np.random.default_rng(0)
    sounds = sorted(TOY_SAMPLES.glob("*.wav"))
    rows = ["audio,image,text"]
    for index in range(examples):
        sound = sounds[index % len(sounds)]
        shutil.copy(sound, folder / f"{index}.wav")
        Image.fromarray(rng.integers(0, 256, (480, 640, 3), np.uint8)).save(folder / f"{index}.jpg")
        rows.append(f"{index}.wav,{index}.jpg,a {sound.stem}")
    (folder / "clips.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_once(folder: Path, write: Callable[[Path], None]):
    """Let `write` fill a folder unless it is there; it has its name when it is whole."""
    if folder.exists():
        return
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    write(part)
    part.rename(folder)


def measure(command: list[str], log: Path) -> tuple[float, float, float]:
    """Seconds of a command, those of all cores, and the most GiB that one process of it had in memory at once.

    Processes that it started count, and so do mapped files. Raises SystemExit with the end of what the command printed
    where it fails.
    """
    start = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        ending = f"{' '.join(command)}: exit status {os.waitstatus_to_exitcode(status)}"  # -9: killed, as for memory
        raise SystemExit(f"{ending}\n{log.read_text(errors='replace')[-3000:]}")
    return time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20


def commands(out: Path) -> dict[str, list[str]]:
    """The commands by the names of their rows; later ones use what earlier ones wrote."""
    clip, model, file, tokenizer = (
        str(out / "models" / name) for name in ("clip", "sd15", "sd15.safetensors", "tokenizer")
    )
    data, run, image = str(out / "data"), str(out / "run"), str(out / "source" / "0.jpg")

    def prepare(source: str, clip: str, folder: str, *more: str) -> list[str]:
        manifest = out / source / "clips.csv"
        return ["-m", "jaxsd.data", "prepare", str(manifest), "--clip", clip, "--out", str(out / folder), *more]

    def train(config: str, batch: int, folder: str) -> list[str]:
        values = {"data.folder": data, "epochs": 0, "steps": 2, "warmup": 0, "batch_size": batch}
        flags = [f"--config.{key}={value}" for key, value in values.items()]
        return ["train.py", f"--config={config}", *flags, "--out", folder]

    def generate(model: str, *more: str) -> list[str]:
        return ["generate.py", "--model", model, "--steps", "2", "--out", str(out / "images"), "--overwrite", *more]

    sound = ["--audio", "dog", "--encoder", run]
    return {
        "prepare 12 examples, toy CLIP": prepare("source", "toy", "toy"),
        "prepare 200 examples, toy CLIP": prepare("source-200", "toy", "toy-200"),
        "prepare 12 examples": prepare("source", clip, "features"),
        "prepare 12 examples with latents": prepare("source", clip, "data", "--latents", "--model", model),
        "train, the paper's recipe, batch 4": train("gemini.py", 4, run),
        "eval": ["eval.py", run, "--data", data, "--out", str(out / "report")],
        "generate from a sound": generate(model, *sound),
        "generate from a text": generate(model, "--text", "a dog"),
        "generate from a sound, a text and an image": generate(
            model, *sound, "--text", "a dog", "--image", image, "--strength", "0.5"
        ),
        "generate from a sound, one file": generate(file, *sound),
        "generate from a text, one file": generate(file, "--tokenizer", tokenizer, "--text", "a dog"),
        "train, recipe denoise, batch 1": train("gemini.py:denoise", 1, str(out / "run-denoise")),
        "prepare 200 examples": prepare("source-200", clip, "features-200"),
        "add latents to the 12 examples": prepare("source", clip, "features", "--latents", "--model", model),
    }


def main():
    parser = cli.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for all that is written")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="these rows of the table")
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    rows = commands(out)
    if unknown := set(arguments.only or ()) - rows.keys():
        parser.error(f"--only is {', '.join(sorted(unknown))}; allowed: {', '.join(rows)}")
    out.mkdir(parents=True, exist_ok=True)
    write_once(out / "models", write_models)
    for name, examples in SOURCES.items():
        write_once(out / name, lambda folder, examples=examples: write_source(folder, examples))
    print("| command | s | s of all cores | GiB |\n|---|---|---|---|")
    for name in arguments.only or rows:
        seconds, of_cores, memory = measure([sys.executable, *rows[name]], out / "log.txt")
        print(f"| {name} | {seconds:.0f} | {of_cores:.0f} | {memory:.1f} |", flush=True)


if __name__ == "__main__":
    main()
