"""The figures of an evaluation, each declared once.

A figure's declaration says by what key results.json holds it, what tables call it, how it is written, which interval
stands beside it and what it is. Tables, CSV, HTML and the table in docs/evaluation.md are made from these declarations.
A new figure takes two places: its declaration here, and the line that computes it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Shaped

from jaxsd.evaluation import metrics

TARGETS = {
    "t": "the caption's embedding",
    "i": "the image's embedding",
    "rt": "the hidden states of CLIP's text tower",
}
"""What embeddings are compared with, by the subscript of a figure's key."""

DIRECTIONS = {"a2t": "audio → text", "t2a": "text → audio", "a2i": "audio → image", "i2a": "image → audio"}
"""From what to what retrieval goes, by the subscript of a figure's key."""


@dataclass(frozen=True)
class Interval:
    """How a figure is computed from one value a clip, with its 95 % interval."""

    name: str
    figure: Callable[[np.ndarray], float]
    bounds: Callable[[np.ndarray], tuple[float, float]]


MEAN = Interval("bootstrap", lambda values: float(np.mean(values)), metrics.bootstrap)
MEDIAN = Interval(
    "bootstrap", lambda values: float(np.median(values)), lambda values: metrics.bootstrap(values, np.median)
)
SHARE = Interval(
    "Wilson",
    lambda values: float(np.mean(values)),
    lambda values: metrics.wilson(float(np.mean(values)), len(values)),
)

NORMAL = Interval("normal", lambda values: float(np.mean(values)), metrics.normal_interval)


@dataclass(frozen=True)
class Figure:
    """The declaration of one figure.

    key: its name in results.json. label: its name in tables. write: the text of a value. table: the table that shows
    it, or "" for none. definition: one sentence. interval: how it comes from one value a clip, or None for a figure
    that is given as it is. chance: what it is, among M clips, of embeddings that say nothing, where that is known.
    """

    key: str
    label: str
    write: Callable[[float], str]
    table: str
    definition: str
    interval: Interval | None = None
    chance: Callable[[int], float] | None = None

    def estimate(self, values: Shaped[np.ndarray, " n"]) -> tuple[float, tuple[float, float]]:
        """The figure of one value a clip, and its 95 % interval."""
        assert self.interval, f"{self.key} is declared without an interval"
        return self.interval.figure(values), self.interval.bounds(values)


def decimals(places: int) -> Callable[[float], str]:
    """Write a number with so many places behind the point."""
    return lambda value: f"{value:z,.{places}f}"


def significant(count: int) -> Callable[[float], str]:
    """Write a number with so many significant digits."""
    return lambda value: f"{value:.{count}g}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")


def percent(value: float) -> str:
    return f"{100 * value:z.1f} %"


def whole_percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _chance_of_recall(k: int, size: int) -> float:
    return min(1.0, k / size)


def _each(subscripts: Sequence[str], *figures: Figure, leave_out: Sequence[str] = ()) -> list[Figure]:
    """The figures once for every subscript, which takes the place of `{}` in their keys and labels.

    `leave_out` are keys that there are not.
    """
    made = [
        replace(
            figure, key=figure.key.format(subscript), label=figure.label.format(DIRECTIONS.get(subscript, subscript))
        )
        for subscript in subscripts
        for figure in figures
    ]
    return [figure for figure in made if figure.key not in leave_out]


_DECLARED = [
    Figure("loss", "loss", decimals(5), "paper", "(TCEOCS_t + TCEOCS_i) / 6, the paper's training loss.", MEAN),
    Figure(
        "tau",
        "τ, seconds for 1,000 clips",
        significant(4),
        "paper",
        "Mean seconds to encode 1,000 clips, with inputs and outputs on the device.",
    ),
    Figure("sigma(tau)", "σ(τ)", significant(4), "", "The standard deviation of tau over the repeated measurements."),
    Figure(
        "tau with transfer",
        "τ with transfer",
        significant(4),
        "paper",
        "Like tau, with inputs and outputs in the host's memory.",
    ),
    *_each(
        ("t", "i", "rt"),
        Figure(
            "TCEOCS_{}",
            "TCEOCS_{}",
            decimals(5),
            "paper",
            "Cross-entropy of the cosines of all pairs against the diagonal, by row plus by column, without a "
            "temperature.",
            MEAN,
            metrics.chance,
        ),
        Figure(
            "mu(MSE)_{}",
            "μ(MSE)_{}",
            significant(3),
            "paper",
            "Mean squared error over all clips and variables.",
            MEAN,
        ),
        Figure("mu(R2)_{}", "μ(R²)_{}", significant(4), "paper", "Mean of R² over the variables."),
        Figure("sigma(R2)_{}", "σ(R²)_{}", significant(4), "paper", "Standard deviation of R² over the variables."),
        leave_out=["TCEOCS_rt"],
    ),
    *_each(
        ("t", "i"),
        Figure(
            "reach_{}",
            "TCEOCS_{}, from chance to floor",
            percent,
            "beside",
            "(chance - TCEOCS) / (chance - floor): 0 % says nothing, and no vectors reach beyond 100 %.",
            MEAN,
            lambda size: 0.0,
        ),
    ),
    *_each(
        ("t", "i", "rt"),
        Figure(
            "mu(R2 varying)_{}",
            "μ(R²)_{}, varying variables",
            significant(4),
            "beside",
            "Mean of R² over the variables that vary by more than float32's rounding.",
        ),
        Figure(
            "sigma(R2 varying)_{}",
            "σ(R²)_{}, varying variables",
            significant(4),
            "beside",
            "Standard deviation of R² over the variables that vary by more than float32's rounding.",
        ),
        Figure(
            "constant_{}",
            "variables of {} that do not vary",
            decimals(0),
            "beside",
            "The number of variables whose standard deviation is below 1e-4 of the targets' root mean square.",
        ),
    ),
    *_each(
        ("t", "i"),
        Figure("cosine_{}", "cosine_{}, matched", decimals(4), "beside", "Mean cosine of the pairs.", MEAN),
        Figure(
            "cosine of others_{}",
            "cosine_{}, mismatched",
            decimals(4),
            "beside",
            "Mean cosine of all mismatched pairs.",
        ),
        Figure(
            "p_{}",
            "p of no alignment_{}",
            significant(2),
            "beside",
            "The share of 1,000 random pairings whose mean cosine is at least that of the true pairing.",
        ),
    ),
    Figure(
        "cosine_rt",
        "cosine_rt, mean of the 77 positions",
        decimals(4),
        "beside",
        "Mean cosine of the encoder's embedding and the caption's hidden state at the same position.",
    ),
    *_each(
        tuple(DIRECTIONS),
        *(
            Figure(
                f"R@{k}_{{}}",
                f"recall@{k}, {{}}",
                percent,
                "beside",
                f"The share of queries whose own candidate is among the {k} nearest; by chance {k} / M.",
                SHARE,
                partial(_chance_of_recall, k),
            )
            for k in metrics.RECALLS
        ),
        Figure(
            "medR_{}",
            "median rank, {}",
            decimals(1),
            "beside",
            "The median rank of the own candidate; by chance (M + 1) / 2.",
            MEDIAN,
            lambda size: (size + 1) / 2,
        ),
    ),
    Figure(
        "denoising",
        "loss",
        decimals(4),
        "denoising",
        "Mean squared error of the frozen U-Net's prediction on held-out images' latents under the conditioning.",
        MEAN,
    ),
    Figure(
        "denoising gain",
        "less than without a caption by",
        decimals(4),
        "denoising",
        "The denoising loss under the empty caption minus that under this conditioning.",
        MEAN,
    ),
    Figure(
        "AIS",
        "AIS",
        whole_percent,
        "images",
        "Audio-image similarity: the share of other sounds that are farther from the image than its own sound.",
        MEAN,
        lambda size: 0.5,
    ),
    Figure(
        "IIS",
        "IIS",
        whole_percent,
        "images",
        "Image-image similarity: the share of other true images that are farther from the image than its own.",
        MEAN,
        lambda size: 0.5,
    ),
    Figure(
        "AIS cosine",
        "AIS, cosine",
        decimals(4),
        "images",
        "Audio-image similarity as a mean: that of the cosines of the images and their own sounds.",
        MEAN,
    ),
    Figure(
        "IIS cosine",
        "IIS, cosine",
        decimals(4),
        "images",
        "Image-image similarity as a mean: that of the cosines of the images and their own true images.",
        MEAN,
    ),
    Figure(
        "AIC",
        "AIC",
        whole_percent,
        "images",
        "Audio-image content: the share of images whose nearest class caption is that of the clip's class.",
        SHARE,
    ),
    Figure(
        "CLIP score",
        "CLIP score",
        decimals(1),
        "images",
        "The mean of 100 max(0, cosine of the image's and the caption's embedding).",
        MEAN,
    ),
    Figure(
        "CMMD",
        "CMMD",
        decimals(3),
        "images",
        "1,000 times the squared maximum mean discrepancy, unbiased, of the images' and the true images' embeddings by "
        "this CLIP, with a Gaussian kernel of deviation 10.",
        NORMAL,
    ),
    Figure(
        "KID",
        "KID on CLIP",
        decimals(5),
        "images",
        "The squared maximum mean discrepancy, unbiased, of the same embeddings, with the kernel (ab / features + 1)³.",
        NORMAL,
    ),
    Figure("pictures", "images", decimals(0), "images", "The number of images drawn under the conditioning."),
]

FIGURES: dict[str, Figure] = {figure.key: figure for figure in _DECLARED}
"""By key, in the order of the tables."""


def verdict_figure(question: str) -> Figure:
    """The figure of a judge's verdicts on one question, such as "class". Judges bring their own questions."""
    definition = f"The share of images in which the judge sees the right {question}."
    return Figure(question, question, whole_percent, "verdicts", definition, SHARE)


def reference_table() -> str:
    """The Markdown table of all declared figures, as docs/evaluation.md holds it. Equal definitions share a line."""
    lines = ["| figure in results.json | in tables | interval | definition |", "|---|---|---|---|"]
    for definition in dict.fromkeys(figure.definition for figure in FIGURES.values()):
        same = [figure for figure in FIGURES.values() if figure.definition == definition]
        keys = ", ".join(f"`{figure.key}`" for figure in same)
        labels = same[0].label if len(same) == 1 else f"{same[0].label}, ..."
        interval = same[0].interval.name if same[0].interval else ""
        lines.append(f"| {keys} | {labels} | {interval} | {definition} |")
    return "\n".join(lines) + "\n"
