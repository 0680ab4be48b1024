"""What is evaluated, and on what: audio encoders, and splits of data with the models that their features are of."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Int

import encoders
from encoders.store import bundled_encoders
from jaxsd.clip.pipeline import CLIP
from jaxsd.config import is_own_encoder
from jaxsd.data.columns import METADATA, open_columns, read_metadata, verify_columns
from jaxsd.diffusion.pipeline import StableDiffusion
from jaxsd.runtime.bundled import clip_source, model_source
from jaxsd.runtime.files import read_json
from jaxsd.runtime.progress import counted

EVALUATED_COLUMNS = ("audio", "tokens", "text", "image")


@dataclass(frozen=True)
class Classes:
    """The classes of a split: their names, a caption of each, and the index of each clip's class."""

    names: Sequence[str]
    captions: Sequence[str]
    labels: Int[np.ndarray, " M"]


@dataclass(frozen=True, repr=False)
class EvaluationSplit:
    """A split of a data set, and the models that its features are of.

    metadata: the content of its dataset.json. pipe: None where the split has no latents.
    """

    folder: Path
    metadata: dict[str, Any]
    columns: Mapping[str, np.ndarray]
    clip: CLIP
    pipe: StableDiffusion | None

    def __len__(self) -> int:
        return len(self.columns["audio"])

    def __repr__(self) -> str:
        return f"EvaluationSplit {self.folder}: {counted(len(self), 'example')} of {', '.join(self.columns)}"

    @property
    def classes(self) -> Classes | None:
        """The classes, or None where the split has no column `class`. The caption of a class is by default its name."""
        if "class" not in self.columns:
            return None
        names = self.metadata["classes"]
        return Classes(names, self.metadata.get("class_captions", names), np.asarray(self.columns["class"]))

    def embeddings(self, name: str) -> Float[np.ndarray, "M projection"]:
        """The column "text" or "image" in float32, of unit norm again: float16 lost it."""
        vectors = np.asarray(self.columns[name], np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def identity(self) -> str:
        """A SHA-256 of the columns that are evaluated on."""
        total = hashlib.sha256()
        for name in sorted({*EVALUATED_COLUMNS, "latents"} & set(self.columns)):
            with (self.folder / f"{name}.npy").open("rb") as file:
                total.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()


def open_evaluation_split(folder, *, clip: str | None = None, model: str | None = None) -> EvaluationSplit:
    """A split with its models, which lie where the split says, or at `clip` and `model` instead.

    Raises FileNotFoundError or ValueError naming what is missing or does not fit.
    """
    folder = Path(folder)
    require_split(folder)
    metadata = read_metadata(folder)
    if metadata["size"] < 2:
        raise ValueError(f"{folder} has {counted(metadata['size'], 'example')}; an evaluation needs at least 2")
    columns = open_columns(folder)
    if missing := [name for name in EVALUATED_COLUMNS if name not in columns]:
        needed = ", ".join(EVALUATED_COLUMNS)
        raise ValueError(f"{folder} has no column {', '.join(missing)}; an evaluation needs {needed}")
    verify_columns(folder, columns)
    variant = metadata.get("variant")
    named = {} if clip else {"revision": metadata.get("clip_revision"), "variant": variant}
    source = clip_source(clip or metadata["clip"])
    towers = CLIP.from_pretrained(source, tokenizer=metadata.get("tokenizer"), dtype=np.float32, **named)
    pipe = None
    if "latents" in columns:
        named = {} if model else {"revision": metadata.get("diffusion_revision"), "variant": variant}
        source = model_source(model or metadata["diffusion"])
        pipe = StableDiffusion.from_pretrained(source, vae=metadata.get("vae"), **named)
    return EvaluationSplit(folder, metadata, columns, towers, pipe)


def require_split(folder: Path) -> None:
    """Raise FileNotFoundError where there is no split, and say which are there."""
    if not (folder / METADATA).is_file():
        splits = ", ".join(sorted(path.parent.name for path in folder.parent.glob(f"*/{METADATA}"))) or "none"
        raise FileNotFoundError(f"{folder}: no data here; splits beside it: {splits}")


@dataclass(frozen=True)
class EvaluatedEncoder:
    """An encoder to evaluate.

    name: what tables call it. source: where it is from. pooling: how its 77 embeddings become one vector ("mean",
    "first" or "last"). before: the encoder that its training began from, where that is evaluated too.
    """

    name: str
    source: str
    encoder: nnx.Module
    pooling: str = "mean"
    before: nnx.Module | None = None


def load_evaluated_encoders(
    sources: Sequence[str], *, before: Callable[[Path, nnx.Module], nnx.Module] | None = None, trust_code: bool = False
) -> list[EvaluatedEncoder]:
    """Load encoders to evaluate, and name each by the last part of its source.

    Args:
        sources: names of bundled encoders, folders or Hugging Face repositories of trained ones, or own classes:
            "my_encoder.py" or "my_encoder.py:MyEncoder".
        before: `before(folder, encoder)` gives the encoder that the training in a run's folder began from; `encoder` is
            what came of it.
        trust_code: whether to run the Python file that a folder names, where its encoder is an own class.

    Raises:
        ValueError: a source is given twice, or does not hold an encoder.
        FileNotFoundError: a source is missing, or with `before`, a source is not the folder of a run.
    """
    if twice := sorted({source for source in sources if list(sources).count(source) > 1}):
        raise ValueError(f"given twice: {', '.join(twice)}")
    short = [_short_name(source) for source in sources]
    names = [name if short.count(name) == 1 else source for name, source in zip(short, sources, strict=True)]
    return [_load_evaluated(*named, before, trust_code) for named in zip(names, sources, strict=True)]


def _short_name(source: str) -> str:
    if is_own_encoder(source):
        path, colon, class_name = source.rpartition(":")
        return class_name if colon and path.endswith(".py") else Path(source).stem
    if source in bundled_encoders() and not Path(source).exists():
        return f"bundled {source}"
    return Path(source).resolve().name


def _load_evaluated(
    name: str, source: str, before: Callable[[Path, nnx.Module], nnx.Module] | None, trust_code: bool
) -> EvaluatedEncoder:
    if is_own_encoder(source):
        return EvaluatedEncoder(name, source, encoders.create(source, rngs=nnx.Rngs(0)))
    encoder = encoders.load(source, trust_code=trust_code)
    pooling = encoders.read_config(source)["audio_pooling"]
    run_config = Path(source) / "config.json"
    if run_config.is_file() and (trained := read_json(run_config).get("audio_pooling", pooling)) != pooling:
        raise ValueError(
            f"{run_config}: audio_pooling is {trained!r}, but {pooling!r} in encoder.json; make them equal"
        )
    if before and not run_config.is_file():
        raise FileNotFoundError(f"{run_config}: missing, so how this encoder began is not known; leave --before out")
    return EvaluatedEncoder(name, source, encoder, pooling, before(Path(source), encoder) if before else None)


def check_fit(evaluated: EvaluatedEncoder, split: EvaluationSplit):
    """Raise ValueError where the encoder's embeddings do not have the shape of the text's hidden states."""
    clips = jax.ShapeDtypeStruct((1, *split.columns["audio"].shape[1:]), jnp.int16)
    made = nnx.eval_shape(lambda encoder, pcm: encoder(pcm), evaluated.encoder, clips).shape
    wanted = (1, split.columns["tokens"].shape[1], split.clip.model.text_model.config.hidden_size)
    if made != wanted:
        raise ValueError(
            f"{evaluated.source} makes {made[1:]} of a clip; {split.folder} needs {wanted[1:]}, as its CLIP"
        )
