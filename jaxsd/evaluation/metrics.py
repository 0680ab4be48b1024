"""Measures of embeddings over a whole split: float64 on the host, block by block, in memory linear in the split.

docs/evaluation.md defines each of them. Nothing here is differentiable: losses to train on are in
jaxsd.training.losses.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy import stats

TIE = 1e-6  # cosines closer than this are equal: float32 vectors do not tell them apart
NOISE = 1e-4  # a variable whose deviation is below this part of the targets' root mean square does not vary
ENTRIES = 2**22  # of the similarity matrix at a time: 32 MiB
RECALLS = (1, 5, 10)


def chance(size: int) -> float:
    """TCEOCS of vectors that say nothing: 2 ln M."""
    return 2 * math.log(size)


def floor(size: int) -> float:
    """The least TCEOCS that unit vectors can have without a temperature: 2 ln(1 + (M - 1) exp(-M / (M - 1))).

    By Jensen's inequality no vectors of any width are below it; a regular simplex (M <= width + 1) attains it.
    """
    return 2 * math.log1p((size - 1) * math.exp(-size / (size - 1))) if size > 1 else 0.0


@dataclass(frozen=True)
class Ranks:
    """Where each query's own candidate stands among all M: how many are nearer, and how many others as near."""

    above: Int[np.ndarray, " M"]
    ties: Int[np.ndarray, " M"]

    def hits(self, k: int) -> Float[np.ndarray, " M"]:
        """The chance that the own candidate is among the first k, ties falling at random; its mean is recall@k."""
        return np.clip((k - self.above) / (self.ties + 1), 0, 1)

    @property
    def middle(self) -> Float[np.ndarray, " M"]:
        """The mean rank over all orders of the ties, from 1."""
        return 1 + self.above + self.ties / 2

    @property
    def beaten(self) -> Float[np.ndarray, " M"]:
        """The share of the other candidates that are farther than the own; ties count half. Chance is 1/2."""
        return (len(self.above) - self.middle) / (len(self.above) - 1)


@dataclass(frozen=True)
class Alignment:
    """How M unit vectors agree with their M targets.

    losses: (M,) cross-entropy of a pair's row plus that of its column; the mean is TCEOCS (arXiv 2509.09717).
    matched: (M,) cosines of the pairs. mismatched: the mean cosine of all M (M - 1) others, NaN for M = 1.
    forward, back: ranks of the own target for each vector, and of the own vector for each target.
    null: (permutations,) the mean matched cosine under random pairings.
    """

    losses: Float[np.ndarray, " M"]
    matched: Float[np.ndarray, " M"]
    mismatched: float
    forward: Ranks
    back: Ranks
    null: Float[np.ndarray, " permutations"]

    @property
    def tceocs(self) -> float:
        return float(self.losses.mean())

    @property
    def p_value(self) -> float:
        """Of the permutation test: the share of random pairings whose mean cosine is at least that of the true one.

        The log-sums of TCEOCS do not depend on the pairing, so it is the permutation test of TCEOCS too.
        """
        as_good = np.count_nonzero(self.null >= self.matched.mean() - 1e-12)  # sums round
        return (1 + as_good) / (1 + len(self.null))


def align(
    vectors: Float[Array | np.ndarray, "..."],
    targets: Float[Array | np.ndarray, "..."],
    *,
    scale: float = 1.0,
    permutations: int = 0,
    seed: int = 0,
    block: int | None = None,
) -> Alignment:
    """Compare unit-norm vectors (M, features) with their targets, `block` rows of the M x M similarities at a time.

    `scale` is the inverse temperature of the cross-entropies alone. Raises ValueError where the shapes differ, there
    is no row, a value is not finite or a norm is not 1 within 1 %.
    """
    vectors, targets = _unit_rows(vectors, "vectors"), _unit_rows(targets, "targets")
    if vectors.shape != targets.shape:
        raise ValueError(f"vectors have shape {vectors.shape} and targets {targets.shape}; allowed: the same")
    size = len(vectors)
    block = block or max(1, ENTRIES // size)
    matched = np.einsum("ij,ij->i", vectors, targets)
    rng = np.random.default_rng(seed)
    pairings = np.empty((size, permutations), np.int32)
    for column in range(permutations):
        pairings[:, column] = rng.permutation(size)

    row_sums, column_sums, null = np.empty(size), np.zeros(size), np.zeros(permutations)
    above, near = np.empty(size, np.int64), np.empty(size, np.int64)
    column_above, column_near = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for start in range(0, size, block):
        part = slice(start, start + block)
        cosines = vectors[part] @ targets.T
        own = matched[part, None]
        above[part], near[part] = (cosines > own + TIE).sum(axis=1), (cosines >= own - TIE).sum(axis=1)
        column_above += (cosines > matched + TIE).sum(axis=0)
        column_near += (cosines >= matched - TIE).sum(axis=0)
        if permutations:
            null += np.take_along_axis(cosines, pairings[part], axis=1).sum(axis=0)
        cosines -= 1  # no exponent is above 0, and of unit vectors none below -2 scale
        cosines *= scale
        np.exp(cosines, out=cosines)
        row_sums[part] = cosines.sum(axis=1)
        column_sums += cosines.sum(axis=0)

    others = size * (size - 1)
    mismatched = (vectors.sum(axis=0) @ targets.sum(axis=0) - matched.sum()) / others if others else math.nan
    return Alignment(
        losses=np.log(row_sums) + np.log(column_sums) - 2 * scale * (matched - 1),
        matched=matched,
        mismatched=float(mismatched),
        forward=Ranks(above, near - above - 1),
        back=Ranks(column_above, column_near - column_above - 1),
        null=null / size,
    )


def _unit_rows(rows, name: str) -> Float[np.ndarray, "M features"]:
    rows = np.asarray(rows, np.float64)
    if rows.ndim != 2 or not len(rows):
        raise ValueError(f"{name} have shape {rows.shape}; allowed: (rows, features), at least one row")
    if bad := np.flatnonzero(~np.isfinite(rows).all(axis=1)).size:
        raise ValueError(f"{name}: {bad} of {len(rows)} rows are not finite")
    norms = np.linalg.norm(rows, axis=1)
    if np.abs(norms - 1).max() > 0.01:
        raise ValueError(f"{name} have norms from {norms.min():.3g} to {norms.max():.3g}; allowed: 1")
    return rows


def retrieval(text: Alignment, image: Alignment) -> dict[str, float]:
    """Recall@1, 5, 10 and the median rank: a2t from audio to text, t2a back, a2i and i2a likewise."""
    ways = directions(text, image)
    figures = {f"R@{k}_{way}": float(ranks.hits(k).mean()) for way, ranks in ways.items() for k in RECALLS}
    return figures | {f"medR_{way}": float(np.median(ranks.middle)) for way, ranks in ways.items()}


def directions(text: Alignment, image: Alignment) -> dict[str, Ranks]:
    """Audio to text, text to audio, audio to image, image to audio."""
    return {"a2t": text.forward, "t2a": text.back, "a2i": image.forward, "i2a": image.back}


def recall_points(size: int) -> list[int]:
    """The k of a retrieval curve: 1 to M, evenly on a logarithmic axis."""
    return np.unique(np.geomspace(1, size, 60).round().astype(int)).tolist()


def alignment(vectors, text, image) -> dict[str, float]:
    """The paper's loss and TCEOCS (arXiv 2509.09717, eq. 2) over all rows at once, beside their bounds, and retrieval.

    All are unit-norm (M, features). Raises ValueError as `align` does.
    """
    with_text, with_image = align(vectors, text), align(vectors, image)
    return {
        "loss": (with_text.tceocs + with_image.tceocs) / 6,
        "TCEOCS_t": with_text.tceocs,
        "TCEOCS_i": with_image.tceocs,
        "chance": chance(len(vectors)),
        "floor": floor(len(vectors)),
        **retrieval(with_text, with_image),
    }


class Regression:
    """Mean squared error and R2 of predictions, variable by variable, added up batch by batch in float64.

    Sums are of the targets' differences from their first row, so that a large mean costs no digits.
    """

    def __init__(self, variables: int):
        self.count = 0
        self.squared_errors, self.sums, self.squares, self.powers = np.zeros((4, variables))
        self.errors = []  # of each row: its mean over the variables

    def add(self, predictions: Float[np.ndarray, "batch variables"], targets: Float[np.ndarray, "batch variables"]):
        targets = np.asarray(targets, np.float64)
        if not self.count:
            self.first = self.lowest = self.highest = targets[0]
        squared = (np.asarray(predictions, np.float64) - targets) ** 2
        self.squared_errors += squared.sum(axis=0)
        self.errors.append(squared.mean(axis=1))
        self.powers += (targets**2).sum(axis=0)
        self.lowest = np.minimum(self.lowest, targets.min(axis=0))
        self.highest = np.maximum(self.highest, targets.max(axis=0))
        shifted = targets - self.first
        self.sums += shifted.sum(axis=0)
        self.squares += (shifted**2).sum(axis=0)
        self.count += len(targets)

    @property
    def row_errors(self) -> Float[np.ndarray, " M"]:
        """The mean squared error of each row; the mean is mu(MSE)."""
        return np.concatenate(self.errors)

    @property
    def r2(self) -> Float[np.ndarray, " variables"]:
        """1 - residual / total sum of squares. Of a constant target: 1 where predicted exactly, else -inf.

        All NaN for a single row, of which R2 is not defined.
        """
        if self.count < 2:
            return np.full_like(self.sums, math.nan)
        total = np.where(self.lowest == self.highest, 0, self.squares - self.sums**2 / self.count)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.squared_errors == 0, 1, 1 - self.squared_errors / total)

    @property
    def varying(self) -> Bool[np.ndarray, " variables"]:
        """Which targets vary by more than float32's rounding of them."""
        size = math.sqrt(self.powers.sum() / (self.count * len(self.powers)))
        variance = np.maximum(self.squares / self.count - (self.sums / self.count) ** 2, 0)
        return np.sqrt(variance) > NOISE * size

    def figures(self) -> dict[str, float]:
        """mu(MSE); mu(R2) and sigma(R2) over all variables, and over those that vary; how many do not."""
        r2, varying = self.r2, self.varying
        return {
            "mu(MSE)": float(self.squared_errors.mean() / self.count),
            "mu(R2)": float(r2.mean()),
            "sigma(R2)": float(r2.std()) if np.isfinite(r2).all() else math.nan,
            "mu(R2 varying)": float(r2[varying].mean()) if varying.any() else math.nan,
            "sigma(R2 varying)": float(r2[varying].std()) if varying.any() else math.nan,
            "constant": int((~varying).sum()),
        }


def bootstrap(
    values: Float[np.ndarray, " M"], statistic: Callable = np.mean, *, resamples: int = 1_000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic of M values over resamples of them."""
    batch = max(1, ENTRIES // len(values))
    result = stats.bootstrap(
        (values,), statistic, n_resamples=resamples, batch=batch, vectorized=True, method="percentile", rng=seed
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count` trials (Wilson's score interval)."""
    z = 1.96
    center = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, center - half), min(1.0, center + half)


def nearest_distances(rows: Float[np.ndarray, "n ..."], others: Float[np.ndarray, "m ..."]) -> Float[np.ndarray, " n"]:
    """The root mean square difference of each row and that of `others` to which it is nearest."""
    a, b = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (rows, others))
    squares = (b**2).sum(axis=1)
    least = np.array([(squares - 2 * b @ row).min() + row @ row for row in a])
    return np.sqrt(np.maximum(least, 0) / a.shape[1])


def normal_interval(values: Float[np.ndarray, " M"]) -> tuple[float, float]:
    """The 95 % interval of the mean of M values, where it is normally distributed."""
    mean = float(np.mean(values))
    half = 1.96 * float(np.std(values)) / math.sqrt(len(values))
    return mean - half, mean + half


def cmmd_kernel(a: Float[np.ndarray, "n features"], b: Float[np.ndarray, "m features"]) -> Float[np.ndarray, "n m"]:
    """CMMD's: 1,000 times a Gaussian of deviation 10 (arXiv 2401.09603)."""
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return 1_000 * np.exp(-squares / (2 * 10**2))


def kid_kernel(a: Float[np.ndarray, "n features"], b: Float[np.ndarray, "m features"]) -> Float[np.ndarray, "n m"]:
    """KID's: (a b / features + 1)^3 (arXiv 1801.01401)."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def kernel_distances(
    vectors: Float[Array | np.ndarray, "M features"], others: Float[Array | np.ndarray, "M features"], kernel: Callable
) -> Float[np.ndarray, " M"]:
    """One value for each of M pairs, whose mean is the unbiased squared maximum mean discrepancy of two sets.

    The values are the first-order terms of the U-statistic (Hoeffding), so that their deviation gives its interval. A
    vector is not compared with the other of its own pair, as the two are no independent draws.
    """
    a, b = np.asarray(vectors, np.float64), np.asarray(others, np.float64)
    across = kernel(a, b)
    terms = kernel(a, a) + kernel(b, b) - across - across.T
    np.fill_diagonal(terms, 0)
    rows = terms.sum(axis=1) / (len(a) - 1)
    return 2 * rows - rows.mean()
