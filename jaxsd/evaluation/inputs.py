"""What is evaluated, and on what: audio encoders and splits of data, with the models that their features are of."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float

import encoders
from jaxsd.bundled import TOY_ENCODERS, clip_source, encoder_source, model_source
from jaxsd.clip.pipeline import CLIP
from jaxsd.config import TrainConfig
from jaxsd.data.columns import METADATA, open_columns
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.files import read_json

COLUMNS = ("audio", "tokens", "text", "image")


@dataclass(frozen=True)
class EvaluationSplit:
    """A split of a data set, and the models that its features are of."""

    folder: Path
    about: dict[str, Any]  # its dataset.json
    columns: Mapping[str, np.ndarray]
    clip: CLIP
    pipe: StableDiffusion | None  # None where there are no latents

    def __len__(self) -> int:
        return len(self.columns["audio"])

    def embeddings(self, name: str) -> Float[np.ndarray, "M projection"]:
        """The column "text" or "image" in float32; float16 lost the unit norm."""
        rows = np.asarray(self.columns[name], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def identity(self) -> str:
        """A SHA-256 of the columns that are evaluated on."""
        total = hashlib.sha256()
        for name in sorted({*COLUMNS, "latents"} & set(self.columns)):
            with (self.folder / f"{name}.npy").open("rb") as file:
                total.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()


def open_evaluation_split(folder) -> EvaluationSplit:
    """A split with its models. Raises FileNotFoundError or ValueError naming what is missing or does not fit."""
    folder = Path(folder)
    if not (folder / METADATA).is_file():
        there = ", ".join(sorted(path.parent.name for path in folder.parent.glob(f"*/{METADATA}"))) or "none"
        raise FileNotFoundError(f"{folder}: no data here; splits beside it: {there}")
    about = read_json(folder / METADATA)
    if about["size"] < 2:
        raise ValueError(f"{folder} has {about['size']} rows; an evaluation needs at least 2")
    columns = open_columns(folder)
    if missing := [name for name in COLUMNS if name not in columns]:
        raise ValueError(f"{folder} has no column {', '.join(missing)}; an evaluation needs {', '.join(COLUMNS)}")
    clip = CLIP.from_pretrained(clip_source(about["clip"]), revision=about.get("clip_revision"), dtype=np.float32)
    pipe = None
    if "latents" in columns:
        revision = about.get("diffusion_revision")
        pipe = StableDiffusion.from_pretrained(model_source(about["diffusion"]), revision=revision)
    return EvaluationSplit(folder, about, columns, clip, pipe)


@dataclass(frozen=True)
class EvaluatedEncoder:
    """An encoder to evaluate: its name in the tables, where it is from, how its rows are pooled into one vector.

    `before` is the encoder as its training found it, where that is asked for.
    """

    name: str
    source: str
    encoder: nnx.Module
    pooling: str = "mean"
    before: nnx.Module | None = None


def load_evaluated_encoders(sources: Sequence[str], *, before: bool = False) -> list[EvaluatedEncoder]:
    """Bundled encoders by name, encoders in folders or Hugging Face repositories, or NNX classes in Python files.

    A run's config.json says how it pools, and with `before` how it began. Raises ValueError or FileNotFoundError
    naming the source.
    """
    if twice := sorted({source for source in sources if list(sources).count(source) > 1}):
        raise ValueError(f"given twice: {', '.join(twice)}")
    short = [_name(source) for source in sources]
    names = [name if short.count(name) == 1 else source for name, source in zip(short, sources, strict=True)]
    return [_load_subject(name, source, before) for name, source in zip(names, sources, strict=True)]


def _name(source: str) -> str:
    path = Path(encoder_source(source)).resolve()
    return f"bundled {path.name}" if path.parent == TOY_ENCODERS else path.name.removesuffix(".py")


def _load_subject(name: str, source: str, before: bool) -> EvaluatedEncoder:
    if source.endswith(".py"):
        return EvaluatedEncoder(name, source, encoders.create(source, rngs=nnx.Rngs(0)))
    encoder = encoders.load(encoder_source(source))
    path = Path(source) / "config.json"
    config = read_json(path) if path.is_file() else {}
    if not before:
        return EvaluatedEncoder(name, source, encoder, config.get("audio_pooling", "mean"))
    if not config:
        raise ValueError(f"{path}: missing, so how this encoder began is not known; leave --before out")
    from jaxsd.training.train import make_encoder

    return EvaluatedEncoder(
        name, source, encoder, config["audio_pooling"], make_encoder(TrainConfig.from_dict(config), jnp.float32)
    )


def check_fit(subject: EvaluatedEncoder, split: EvaluationSplit):
    """Raises ValueError where the encoder's rows are not of the shape of the text's hidden states."""
    clips = jax.ShapeDtypeStruct((1, *split.columns["audio"].shape[1:]), jnp.int16)
    made = nnx.eval_shape(lambda encoder, pcm: encoder(pcm), subject.encoder, clips).shape
    wanted = (1, split.columns["tokens"].shape[1], split.clip.model.text_model.config.hidden_size)
    if made != wanted:
        raise ValueError(f"{subject.source} makes {made[1:]} of a clip; {split.folder} needs {wanted[1:]}, as its CLIP")
