"""Measures audio encoders on a split of a data set: the paper's tables (arXiv 2509.09717) and what they leave unsaid.

docs/evaluation.md defines every figure by the name it has here.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from encoders import contract
from jaxsd.clip.pooling import pool_embeddings
from jaxsd.clip.tokens import tokenize
from jaxsd.diffusion.denoising import denoising_errors_at
from jaxsd.diffusion.pipeline import StableDiffusion, to_pil
from jaxsd.evaluation import metrics
from jaxsd.evaluation.inputs import EvaluatedEncoder, EvaluationSplit, check_fit
from jaxsd.progress import Progress

BATCH = 50  # rows at a time
TIMED_BATCH = 1_000  # clips at a time where encoding is timed, as in the paper
PERMUTATIONS = 1_000
NEXT = 5  # rows on is the wrong caption: in the toy world always that of another thing
BINS = np.linspace(-1, 1, 101)  # of the histograms of cosines
TEXT_POOLINGS = ("eos", "bos")
CAPTION, WRONG, CLASS, NOTHING, NOISE = "own caption", "wrong caption", "class caption", "no caption", "N(0, 1)"
REFERENCES = (CAPTION, WRONG, CLASS, NOTHING, NOISE)
REAL = "real pictures"

Results = dict[str, Any]  # what `evaluate` returns


@dataclass(frozen=True)
class Labels:
    """Of what class each row of a split is: a caption a class, and each row's place among them."""

    captions: Sequence[str]
    truth: Int[np.ndarray, " M"]


@dataclass(frozen=True)
class Drawing:
    """Pictures to make: of the first `count` rows, each a function of its conditioning and its place alone.

    `judge` gives its verdicts on pictures (count, height, width, 3) in [0, 1] by question, True where it is right;
    `real` are the true pictures, for its limits.
    """

    count: int
    guidance: float
    steps: int
    judge: Callable[[np.ndarray], dict[str, np.ndarray]] | None = None
    real: np.ndarray | None = None


@dataclass
class Entry:
    """What is known of one row of the tables: figures by name, 95 % intervals of some, and curves to draw."""

    figures: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    curves: dict[str, list] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    def mean(self, name: str, values: Float[np.ndarray, " n"]):
        """A mean over clips, with its bootstrap interval."""
        self.figures[name] = float(np.mean(values))
        self.intervals[name] = metrics.bootstrap(values)

    def share(self, name: str, hits: np.ndarray):
        """A share of clips, with Wilson's interval."""
        self.figures[name] = float(np.mean(hits))
        self.intervals[name] = metrics.wilson(self.figures[name], len(hits))

    def to_json(self) -> dict[str, Any]:
        return {**self.about, "figures": self.figures, "intervals": self.intervals, "curves": self.curves}


def evaluate(
    subjects: Sequence[EvaluatedEncoder],
    split: EvaluationSplit,
    *,
    text_pooling: str = "eos",
    repeats: int = 0,
    labels: Labels | None = None,
    drawing: Drawing | None = None,
    references: Collection[str] = REFERENCES,
) -> Results:
    """Every figure of every subject over the whole split, laid out as results.json holds it.

    `text_pooling` is the text target of the paper's figures: "eos", CLIP's own, or "bos", the same for every caption.
    `repeats` is how often encoding the split is timed. `references` are the conditionings that stand beside the
    encoders; "class caption" is there with `labels` only, and "no caption" always. A row's 77 vectors are never kept,
    only its pooled one, so memory is linear in the split. Raises ValueError where an encoder does not fit the data or
    is not finite.
    """
    if text_pooling not in TEXT_POOLINGS:
        raise ValueError(f"text pooling is {text_pooling!r}; allowed: {', '.join(TEXT_POOLINGS)}")
    if drawing and not split.pipe:
        raise ValueError(f"{split.folder} has no latents, so it names no models to draw pictures with")
    if drawing and not 2 <= drawing.count <= len(split):
        raise ValueError(f"pictures is {drawing.count}; allowed: 0, or 2 to {len(split)}")
    for subject in subjects:
        check_fit(subject, split)

    text = _TextTower(split)
    unet = _FrozenUNet(split) if split.pipe else None
    passes = {s.name: _Pass(split, _audio_rows(s.encoder, split), unet, s.source, s.pooling) for s in subjects}
    first = {
        s.name: _Pass(split, _audio_rows(s.before, split), None, s.source, s.pooling) for s in subjects if s.before
    }
    passes |= {
        name: _Pass(split, rows, unet, name)
        for name, rows in text.references(labels).items()
        if name in (*references, NOTHING)
    }
    with Progress("evaluate", len(split), unit="clip") as progress:
        for index, count in batches(len(split)):
            states = text.states(split.columns["tokens"][index])
            for one in (*passes.values(), *first.values()):
                one.add(index, count, states)
            progress.advance(int(index[count - 1]) + 1)

    targets = Targets(
        split.embeddings("text"), split.embeddings("image"), text.start() if text_pooling == "bos" else None
    )
    entries = {name: one.entry(targets) for name, one in passes.items()}
    if CAPTION in entries:
        add_alignment(entries[CAPTION], targets.text, targets)
    if unet:
        for name, one in passes.items():
            entries[name].mean("denoising", one.denoising())
            entries[name].mean("denoising gain", passes[NOTHING].denoising() - one.denoising())
    if repeats:
        for name, (encode, inputs) in _timed(subjects, split, text).items():
            if name in entries:
                entries[name].figures |= time_encoding(encode, inputs, repeats)
    if drawing:
        drawn = {name: one for name, one in passes.items() if one.pooling or name in references}
        entries |= _draw(entries, drawn, split, targets, labels, drawing)
    for subject in subjects:
        entries[subject.name].about = {"source": subject.source, "table 2": inventory(subject.encoder)}
        if subject.before:
            entries[subject.name].about["before"] = first[subject.name].entry(targets).figures
    return empty_results(split, text_pooling) | {
        "encoders": {subject.name: entries.pop(subject.name).to_json() for subject in subjects},
        "references": {name: entry.to_json() for name, entry in entries.items()},
    }


def empty_results(split: EvaluationSplit, text_pooling: str) -> Results:
    """The results of no encoder: what must agree for results to stand side by side."""
    return {
        "data": {
            "folder": str(split.folder),
            "size": len(split),
            "identity": split.identity(),
            **{name: split.about.get(name) for name in ("clip", "diffusion")},
        },
        "settings": {"text_pooling": text_pooling, "device": jax.devices()[0].device_kind},
        "bounds": {"chance": metrics.chance(len(split)), "floor": metrics.floor(len(split))},
        "encoders": {},
        "references": {},
    }


def batches(size: int) -> Iterator[tuple[Int[np.ndarray, " BATCH"], int]]:
    """Places of BATCH rows at a time, and how many of them count: the last row fills up the last batch."""
    for start in range(0, size, BATCH):
        yield np.minimum(np.arange(start, start + BATCH), size - 1), min(BATCH, size - start)


@dataclass(frozen=True)
class Targets:
    """What vectors are compared with, unit-norm (M, projection); `start` (projection,) is the "bos" text, if wanted."""

    text: np.ndarray
    image: np.ndarray
    start: np.ndarray | None

    @property
    def published(self) -> np.ndarray:
        return self.text if self.start is None else np.broadcast_to(self.start, self.text.shape)


@nnx.jit
def _encode(encoder, pcm):
    return encoder(pcm)


@nnx.jit
def _hidden_states(text_model, tokens):
    return text_model(tokens).hidden_states


@partial(nnx.jit, static_argnames="schedule")
def _denoising_errors(unet, schedule, *batch):
    return denoising_errors_at(unet, schedule, *batch)[0]


class _TextTower:
    """CLIP's text tower on the captions of a split, and the conditionings that need no encoder."""

    def __init__(self, split: EvaluationSplit):
        self.split = split

    def states(self, tokens: Int[np.ndarray, "batch 77"]) -> Float[Array, "batch 77 width"]:
        return _hidden_states(self.split.clip.model.text_model, tokens)

    def start(self) -> Float[np.ndarray, " projection"]:
        """The text embedding pooled at position 0: as the tower is causal, that of every caption."""
        states = self.states(self.split.columns["tokens"][:1])
        return np.asarray(pool_embeddings(states, self.split.clip.model.text_projection.kernel[...], "first")[0])

    def references(self, labels: Labels | None) -> dict[str, Callable]:
        """By name: `rows(index, states)` (batch, 77, width) of the rows at `index`, whose captions have `states`."""
        tokens, tokenizer = self.split.columns["tokens"], self.split.clip.tokenizer
        nothing = self.states(tokenize(tokenizer, [""]))
        rows = {
            CAPTION: lambda index, states: states,
            WRONG: lambda index, states: self.states(tokens[(index + NEXT) % len(tokens)]),
            NOTHING: lambda index, states: jnp.broadcast_to(nothing, states.shape),
            NOISE: lambda index, states: jax.random.normal(jax.random.key(int(index[0])), states.shape),
        }
        if labels:
            classes = self.states(tokenize(tokenizer, list(labels.captions)))
            rows[CLASS] = lambda index, states: classes[labels.truth[index]]
        return rows


def _audio_rows(encoder: nnx.Module, split: EvaluationSplit) -> Callable:
    return lambda index, states: _encode(encoder, split.columns["audio"][index])


class _FrozenUNet:
    """The denoising error of each clip at a timestep and with a noise of its own, the same for every conditioning."""

    def __init__(self, split: EvaluationSplit):
        self.pipe, self.latents = split.pipe, split.columns["latents"]
        rng = np.random.default_rng(0)
        places = (rng.permutation(len(split)) + rng.random(len(split))) / len(split)  # stratified over the split
        self.timesteps = np.int32(places * split.pipe.schedule.num_train_timesteps)

    def errors(self, index: Int[np.ndarray, " batch"], rows: Float[Array, "batch 77 width"]) -> Float[Array, " batch"]:
        latents = self.latents[index].astype(np.float32)
        noise = jax.random.normal(jax.random.key(int(index[0])), latents.shape)
        return _denoising_errors(self.pipe.unet, self.pipe.schedule, latents, rows, self.timesteps[index], noise)


class _Pass:
    """What is kept of one conditioning's rows as they go by. Only of an encoder's, `pooling` makes a vector a clip."""

    def __init__(
        self, split: EvaluationSplit, rows: Callable, unet: _FrozenUNet | None, source: str, pooling: str | None = None
    ):
        self.rows, self.unet, self.source, self.pooling = rows, unet, source, pooling
        self.projection = split.clip.model.text_projection.kernel[...]
        width = split.clip.model.text_model.config.hidden_size
        tokens = split.columns["tokens"].shape[1]
        self.positions, self.count = np.zeros(tokens), 0
        self.raw = metrics.Regression(tokens * width)
        self.vectors, self.errors = [], []

    def add(self, index, count, states):
        """Take in the `count` first rows at `index`. Raises ValueError where one is not finite, or its vector zero."""
        rows = self.rows(index, states)
        made, wanted = np.asarray(rows)[:count], np.asarray(states)[:count]
        vectors = np.asarray(pool_embeddings(rows, self.projection, self.pooling or "mean"))[:count]
        finite = np.isfinite(made).all(axis=(1, 2)) & np.isfinite(vectors).all(axis=1)
        if not finite.all():
            clip = index[finite.argmin()]
            raise ValueError(f"{self.source} makes values that are not finite, or nothing but zeros, of clip {clip}")
        self.positions += _cosines(made, wanted).sum(axis=0)
        self.count += count
        if self.pooling:
            self.vectors.append(vectors)
            self.raw.add(made.reshape(count, -1), wanted.reshape(count, -1))
        if self.unet:
            self.errors.append(np.asarray(self.unet.errors(index, rows), np.float64)[:count])

    def denoising(self) -> Float[np.ndarray, " M"]:
        return np.concatenate(self.errors)

    def entry(self, targets: Targets) -> Entry:
        entry = Entry(curves={"positions": (self.positions / self.count).tolist()})
        if self.pooling:
            add_alignment(entry, np.concatenate(self.vectors), targets)
            entry.figures |= {f"{name}_rt": value for name, value in self.raw.figures().items()}
            entry.mean("mu(MSE)_rt", self.raw.row_errors)
            entry.figures["cosine_rt"] = float(self.positions.mean() / self.count)
        return entry


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines along the last axis, 0 where a vector is zero."""
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.einsum("...i,...i->...", a, b) / np.where(norms == 0, 1, norms)


def add_alignment(entry: Entry, vectors: Float[np.ndarray, "M projection"], targets: Targets):
    """Every figure of pooled, unit-norm vectors: the paper's, against `targets.published`, and those beside them."""
    text = metrics.align(vectors, targets.text, permutations=PERMUTATIONS)
    image = metrics.align(vectors, targets.image, permutations=PERMUTATIONS)
    published = text if targets.start is None else metrics.align(vectors, targets.published)
    entry.mean("loss", (published.losses + image.losses) / 6)
    chance = metrics.chance(len(vectors))
    for kind, losses, wanted in (("t", published.losses, targets.published), ("i", image.losses, targets.image)):
        entry.mean(f"TCEOCS_{kind}", losses)
        entry.mean(f"reach_{kind}", (chance - losses) / (chance - metrics.floor(len(vectors))))
        regression = metrics.Regression(vectors.shape[1])
        for start in range(0, len(vectors), TIMED_BATCH):
            part = slice(start, start + TIMED_BATCH)
            regression.add(vectors[part], wanted[part])
        entry.figures |= {f"{name}_{kind}": value for name, value in regression.figures().items()}
        entry.mean(f"mu(MSE)_{kind}", regression.row_errors)
    for kind, found in (("t", text), ("i", image)):
        entry.mean(f"cosine_{kind}", found.matched)
        entry.figures |= {f"cosine of others_{kind}": found.mismatched, f"p_{kind}": found.p_value}
        others = np.einsum("ij,ij->i", vectors, np.roll(targets.text if kind == "t" else targets.image, 1, axis=0))
        for name, cosines in ((f"matched_{kind}", found.matched), (f"mismatched_{kind}", others)):
            entry.curves[name] = np.histogram(np.clip(cosines, -1, 1), BINS)[0].tolist()
    for way, ranks in metrics.directions(text, image).items():
        for k in metrics.RECALLS:
            entry.share(f"R@{k}_{way}", ranks.hits(k))
        entry.figures[f"medR_{way}"] = float(np.median(ranks.middle))
        entry.intervals[f"medR_{way}"] = metrics.bootstrap(ranks.middle, np.median)
        entry.curves[f"recall_{way}"] = [float(ranks.hits(k).mean()) for k in metrics.recall_points(len(vectors))]


def inventory(encoder: nnx.Module) -> dict[str, float]:
    """Layers as Table 2 counts them, parameters, and floating-point operations a clip."""
    counts = contract.count_layers(encoder)
    return {
        **{kind: counts[kind] for kind in contract.PAPER_LAYERS},
        "parameters": contract.parameter_count(encoder),
        "FLOPs": contract.flops_per_clip(encoder),
    }


def _timed(
    subjects: Sequence[EvaluatedEncoder], split: EvaluationSplit, text: _TextTower
) -> dict[str, tuple[Callable, np.ndarray]]:
    """What is timed, on which column: the encoders, and as in the paper CLIP's text tower."""
    audio, tokens = split.columns["audio"], split.columns["tokens"]
    timed = {subject.name: (partial(_encode, subject.encoder), audio) for subject in subjects}
    return timed | {CAPTION: (text.states, tokens)}


def time_encoding(encode: Callable[[Array], Array], inputs: np.ndarray, repeats: int) -> dict[str, float]:
    """Mean seconds to encode 1,000 rows, in batches of 1,000 over all rows, and the deviation over the repeats.

    tau: inputs and outputs on the device. "tau with transfer": both on the host. Compilation and a first run of every
    shape of batch are left out, and so is reading the rows from the disk.
    """
    parts = [inputs[start : start + TIMED_BATCH] for start in range(0, len(inputs), TIMED_BATCH)]
    for part in {len(part): part for part in parts}.values():
        jax.block_until_ready(encode(jnp.asarray(part)))
    times = np.zeros((repeats, 2))
    for repeat in range(repeats):
        for part in parts:
            part = np.ascontiguousarray(part)
            start = time.perf_counter()
            batch = jax.block_until_ready(jax.device_put(part))
            moved = time.perf_counter()
            made = jax.block_until_ready(encode(batch))
            done = time.perf_counter()
            np.asarray(made)
            times[repeat] += done - moved, time.perf_counter() - start
    times *= 1_000 / len(inputs)
    (tau, with_transfer), deviation = times.mean(axis=0), times.std(axis=0)[0]
    return {"tau": float(tau), "sigma(tau)": float(deviation), "tau with transfer": float(with_transfer)}


def pictures(
    pipe: StableDiffusion,
    context: Float[Array, "n 77 width"],
    *,
    guidance: float,
    steps: int,
    progress: Callable[[int], None] = lambda _: None,
) -> Float[np.ndarray, "n height width 3"]:
    """One picture of each conditioning, float32 in [0, 1]; `progress` is told how many are made."""
    made = []
    for index, count in batches(len(context)):
        key = jax.random.fold_in(jax.random.key(1), int(index[0]))
        made.append(np.asarray(pipe(context[index], guidance=guidance, steps=steps, key=key))[:count])
        progress(int(index[count - 1]) + 1)
    return np.concatenate(made)


def _draw(entries, passes, split: EvaluationSplit, targets: Targets, labels, drawing: Drawing) -> dict[str, Entry]:
    """Add what the pictures of every conditioning are like; the entry of the real pictures, where they are known."""
    classes = split.clip.embed_text(list(labels.captions)) if labels else None
    text = _TextTower(split)

    def add(entry: Entry, made: np.ndarray, vectors: np.ndarray | None):
        count = len(made)
        entry.figures["pictures"] = count
        seen = np.asarray(split.clip.embed_images(to_pil(made)))
        entry.mean("CLIP score", 100 * np.maximum(0, np.einsum("ij,ij->i", seen, targets.text[:count])))
        entry.mean("IIS", metrics.align(seen, targets.image[:count]).forward.beaten)
        if vectors is not None:
            entry.mean("AIS", metrics.align(seen, vectors[:count]).forward.beaten)
        if labels:
            entry.share("AIC", (seen @ np.asarray(classes).T).argmax(axis=1) == labels.truth[:count])
        for question, right in (drawing.judge(made) if drawing.judge else {}).items():
            if len(right):
                entry.share(question, right)

    with Progress("pictures", drawing.count * len(passes), unit="picture") as progress:
        for place, (name, one) in enumerate(passes.items()):
            context = np.concatenate(
                [
                    np.asarray(one.rows(index, text.states(split.columns["tokens"][index])))[:count]
                    for index, count in batches(drawing.count)
                ]
            )
            made = pictures(
                split.pipe,
                context,
                guidance=drawing.guidance,
                steps=drawing.steps,
                progress=lambda done, first=place * drawing.count: progress.advance(first + done),
            )
            add(entries[name], made, np.concatenate(one.vectors) if one.vectors else None)
    if drawing.real is None:
        return {}
    entry = Entry()
    add(entry, drawing.real, None)
    return {REAL: entry}
