"""What is fuzzed: how undamaged files of a kind come about, and what reads them.

A target has `samples(folder)`, which writes undamaged files and gives their paths, `mutate`, which damages the bytes of
one, and `read(path)`, which reads the damaged one as a command would.
"""

import io
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import soundfile
from PIL import Image
from pyarrow import parquet

import encoders
from jaxsd.audio import load_clip
from jaxsd.clip.tokens import load_tokenizer, tokenize
from jaxsd.clip.towers import TextConfig, VisionConfig
from jaxsd.data.columns import write_columns
from jaxsd.data.decode import decode_rows
from jaxsd.data.info import info
from jaxsd.data.manifest import ManifestRow, draw_splits, read_manifest
from jaxsd.diffusion.samplers import NoiseSchedule, make_sampler
from jaxsd.diffusion.sampling_defaults import SamplingDefaults
from jaxsd.diffusion.unet import UNetConfig
from jaxsd.diffusion.vae import VAEConfig
from jaxsd.pretrained.model_config import read_model_config
from jaxsd.pretrained.weights import open_tensors
from jaxsd.runtime.bundled import TOY_ENCODERS, TOY_MODEL
from jaxsd.runtime.files import read_json
from tests.fuzz.mutations import mutate_bytes, mutate_json, mutate_text

TOY_TEXT = read_model_config(TextConfig, TOY_MODEL / "text_encoder" / "config.json")


@dataclass(frozen=True)
class Target:
    """See the module. `files` are names within a sample, which is then a folder, that may be damaged."""

    samples: Callable[[Path], Sequence[Path]]
    mutate: Callable[[np.random.Generator, bytes], bytes]
    read: Callable[[Path], object]
    files: tuple[str, ...] = ()


def _sounds(folder: Path) -> list[Path]:
    rate = 16_000
    samples = 0.3 * np.sin(np.arange(rate // 2) * 0.3) + 0.01 * np.random.default_rng(0).standard_normal(rate // 2)
    paths = []
    for name, subtype in (
        ("a.wav", "PCM_16"),
        ("b.wav", "FLOAT"),
        ("c.wav", "IMA_ADPCM"),
        ("a.flac", "PCM_16"),
        ("a.ogg", "VORBIS"),
        ("b.ogg", "OPUS"),
        ("a.mp3", "MPEG_LAYER_III"),
        ("a.aiff", "PCM_16"),
        ("a.caf", "ALAC_16"),
        ("a.w64", "PCM_16"),
    ):
        soundfile.write(folder / name, samples, rate, subtype=subtype)
        paths.append(folder / name)
    for name, codec, container in (
        ("a.m4a", "aac", "mp4"),
        ("a.aac", "aac", "adts"),
        ("a.webm", "libopus", "webm"),
        ("a.mkv", "flac", "matroska"),
    ):
        with av.open(str(folder / name), "w", format=container) as output:
            stream = output.add_stream(codec, rate=48_000)
            stream.layout = "mono"
            block = np.tile(samples, 2)[None, : 16 * 960].astype(np.float32)
            for first in range(0, block.shape[1], 960):
                part = np.ascontiguousarray(block[:, first : first + 960])
                frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 48_000, first
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        paths.append(folder / name)
    return paths


def _read_sound(path: Path):
    clip = load_clip(path)
    assert clip.samples.dtype == np.int16 and clip.samples.shape == (16_000,) and clip.start >= 0


def _images(folder: Path) -> list[Path]:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 4)).astype(np.uint8)
    images = {"rgb": Image.fromarray(pixels[..., :3]), "rgba": Image.fromarray(pixels)}
    images |= {"gray": images["rgb"].convert("L"), "palette": images["rgb"].convert("P")}
    images |= {
        "f": Image.fromarray(np.float32(pixels[..., 0]) / 255),
        "i16": Image.fromarray(np.uint16(pixels[..., 0])),
    }
    paths = []
    for name, formats in (
        ("rgb", ("png", "jpg", "webp", "bmp", "tif", "gif", "ppm", "tga", "jp2", "avif", "ico")),
        ("rgba", ("png", "webp", "tif", "avif")),
        ("gray", ("png", "jpg", "pgm")),
        ("palette", ("png", "gif")),
        ("f", ("tif",)),
        ("i16", ("png", "tif")),
    ):
        for suffix in formats:
            path = folder / f"{name}.{suffix}"
            try:
                images[name].save(path)
            except (KeyError, ValueError, OSError):  # a codec that this Pillow was built without
                continue
            paths.append(path)
    return paths


def _read_image(path: Path):
    row = ManifestRow(0, None, path.name, None, None, None)
    examples = decode_rows([row], path.parent, None, 16)
    if examples.bad:
        raise ValueError(examples.bad[0]["reason"])


def _manifests(folder: Path) -> list[Path]:
    rows = [
        {"audio": f"{i}.wav", "image": f"{i}.png", "text": f"caption, {i}", "start": i / 2, "group": f"g{i % 3}"}
        | {"class": "dog" if i % 2 else "bell"}
        for i in range(12)
    ]
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [",".join(rows[0]), *(",".join(f'"{value}"' for value in row.values()) for row in rows)]
    (folder / "a.csv").write_text("\n".join(lines) + "\n")
    parquet.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    return [folder / "a.jsonl", folder / "a.csv", folder / "a.parquet"]


def _read_manifest(path: Path):
    manifest = read_manifest(path)
    for numbers in draw_splits(manifest, None, None, 0).values():
        manifest.rows(numbers)


def _weights(folder: Path) -> list[Path]:
    path = folder / "a.safetensors"
    shutil.copy(TOY_ENCODERS / "human" / "model.safetensors", path)
    return [path]


def _read_weights(path: Path):
    for tensor in open_tensors([path]).values():
        np.asarray(tensor)


def _configs(folder: Path) -> list[Path]:
    sources = {
        "unet": TOY_MODEL / "unet" / "config.json",
        "vae": TOY_MODEL / "vae" / "config.json",
        "clip": TOY_MODEL / "clip" / "config.json",
        "schedule": TOY_MODEL / "scheduler" / "scheduler_config.json",
        "sampling_config": TOY_MODEL / "sampling_config.json",
    }
    for name, source in sources.items():
        shutil.copy(source, folder / f"{name}.json")
    return [folder / f"{name}.json" for name in sources]


def _read_config(path: Path):
    name = path.stem
    if name == "schedule":
        make_sampler("ddim", NoiseSchedule.read(path), 10)
    elif name == "sampling_config":
        SamplingDefaults.read(path.parent)
    elif name == "clip":
        config = read_json(path)
        for key, kind in (("text_config", TextConfig), ("vision_config", VisionConfig)):
            part = path.with_name(f"{key}.json")
            part.write_text(json.dumps(config.get(key, {})))
            read_model_config(kind, part)
    else:
        read_model_config({"unet": UNetConfig, "vae": VAEConfig}[name], path)


def _tokenizers(folder: Path) -> list[Path]:
    shutil.copytree(TOY_MODEL / "tokenizer", folder / "tokenizer")
    return [folder / "tokenizer"]


def _read_tokenizer(folder: Path):
    tokens = tokenize(load_tokenizer(folder, TOY_TEXT), ["a dog barking", "☃ snow"])
    assert len(tokens) == 2 and 2 <= tokens.shape[1] <= 77 and tokens.dtype == np.int32


def _encoders(folder: Path) -> list[Path]:
    shutil.copytree(TOY_ENCODERS / "human", folder / "human")
    return [folder / "human"]


def _data_sets(folder: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    text = rng.normal(size=(5, 8))
    text = (text / np.linalg.norm(text, axis=1, keepdims=True)).astype(np.float16)
    columns = {
        "audio": rng.integers(-9, 9, (5, 16_000)).astype(np.int16),
        "text": text,
        "image": text,
        "tokens": np.full((5, 77), 3, np.int32),
        "row": np.arange(5),
        "class": np.array([0, 1, 0, 1, 0], np.int32),
    }
    metadata = {"clip": "toy", "eos_token_id": 3, "rows": 5, "skipped": 0, "classes": ["bell", "dog"]}
    write_columns(folder / "set", columns, metadata)
    return [folder / "set"]


def _read_data_set(folder: Path):
    with redirect_stdout(io.StringIO()):
        info(folder)


TARGETS = {
    "sounds": Target(_sounds, mutate_bytes, _read_sound),
    "images": Target(_images, mutate_bytes, _read_image),
    "manifests": Target(_manifests, mutate_text, _read_manifest),
    "safetensors": Target(_weights, mutate_bytes, _read_weights),
    "configs": Target(_configs, mutate_json, _read_config),
    "tokenizers": Target(_tokenizers, mutate_json, _read_tokenizer, ("tokenizer.json", "tokenizer_config.json")),
    "encoders": Target(_encoders, mutate_json, encoders.load, ("encoder.json",)),
    "encoder weights": Target(_encoders, mutate_bytes, encoders.load, ("model.safetensors",)),
    "data sets": Target(
        _data_sets, mutate_json, _read_data_set, ("dataset.json", "text.npy", "class.npy", "audio.npy")
    ),
}
