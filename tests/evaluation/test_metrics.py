"""Every metric against an independent reference in float64."""

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.metrics import mean_squared_error, r2_score

from jaxsd.evaluation import metrics


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def pairs(rng, size, width=16):
    """Targets, and float32 vectors that lean towards them."""
    targets = unit(rng.standard_normal((size, width)))
    return unit(targets + 0.5 * rng.standard_normal(targets.shape)).astype(np.float32), targets.astype(np.float32)


def literal_tceocs(vectors, targets, scale=1.0):
    logits = scale * vectors.astype(np.float64) @ targets.astype(np.float64).T
    return -np.diag(log_softmax(logits, axis=1)).mean() - np.diag(log_softmax(logits, axis=0)).mean()


@pytest.mark.parametrize("size, block", [(1, None), (2, 1), (60, 7), (60, 60), (61, 1000)])
@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_cross_entropies_equal_a_literal_one(rng, size, block, scale):
    vectors, targets = pairs(rng, size)
    found = metrics.align(vectors, targets, scale=scale, block=block)
    np.testing.assert_allclose(found.tceocs, literal_tceocs(vectors, targets, scale), rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(found.matched, (vectors.astype(float) * targets).sum(axis=1))
    if size > 1:
        others = (vectors.astype(float) @ targets.T)[~np.eye(size, dtype=bool)]
        np.testing.assert_allclose(found.mismatched, others.mean(), rtol=1e-6)


def test_constant_targets_are_chance_in_everything(rng):
    vectors, targets = pairs(rng, 50)
    found = metrics.align(vectors, np.repeat(targets[:1], 50, axis=0), block=8, permutations=99)
    assert metrics.chance(50) <= found.tceocs < metrics.chance(50) + 0.2  # the rows' half is at it
    assert found.forward.hits(1).mean() == pytest.approx(1 / 50) and np.all(found.forward.middle == 25.5)
    assert found.p_value == 1.0
    same = metrics.align(np.repeat(targets[:1], 50, axis=0), np.repeat(targets[:1], 50, axis=0))
    assert same.tceocs == pytest.approx(metrics.chance(50), rel=1e-9)
    assert same.back.hits(10).mean() == pytest.approx(10 / 50)


def test_retrieval_equals_sorting(rng):
    vectors, targets = pairs(rng, 90)
    found = metrics.align(vectors, targets, block=7)
    cosines = vectors.astype(np.float64) @ targets.astype(np.float64).T
    for ranks, matrix in ((found.forward, cosines), (found.back, cosines.T)):
        places = [1 + list(np.argsort(-row)).index(i) for i, row in enumerate(matrix)]
        assert np.array_equal(ranks.middle, places)
        for k in (1, 5, 10):
            assert ranks.hits(k).mean() == np.mean(np.array(places) <= k)


def test_duplicated_rows_share_their_rank(rng):
    vectors, targets = pairs(rng, 40)
    vectors, targets = np.repeat(vectors, 3, axis=0), np.repeat(targets, 3, axis=0)
    found = metrics.align(targets, targets, block=11)
    assert np.all(found.forward.ties == 2) and np.all(found.forward.middle == 2)
    assert found.forward.hits(1).mean() == pytest.approx(1 / 3) and found.back.hits(5).mean() == 1
    np.testing.assert_allclose(
        metrics.align(vectors, targets, block=11).tceocs, literal_tceocs(vectors, targets), rtol=1e-9
    )


def test_the_permutation_test_knows_alignment_from_chance(rng):
    vectors, targets = pairs(rng, 60)
    assert metrics.align(vectors, targets, permutations=199).p_value == 1 / 200
    unrelated = [metrics.align(vectors, pairs(rng, 60)[1], permutations=199, seed=i).p_value for i in range(20)]
    assert 0.2 < np.mean(unrelated) < 0.8
    null = metrics.align(vectors, targets, permutations=3, seed=5, block=7).null
    pairings = np.random.default_rng(5)
    expected = [(vectors.astype(float) * targets[pairings.permutation(60)]).sum(axis=1).mean() for _ in range(3)]
    np.testing.assert_allclose(null, expected, rtol=1e-6)


def test_nothing_without_a_temperature_is_below_the_floor(rng):
    simplex = unit(np.eye(8) - 1 / 8)
    assert metrics.align(simplex, simplex).tceocs == pytest.approx(metrics.floor(8), rel=1e-9)
    vectors, _ = pairs(rng, 40, width=3)
    assert metrics.align(vectors, vectors).tceocs > metrics.floor(40)
    assert metrics.floor(1) == metrics.chance(1) == 0


def test_alignment_is_the_papers_loss(rng):
    vectors, text = pairs(rng, 30)
    image = pairs(rng, 30)[1]
    found = metrics.alignment(vectors, text, image)
    assert found["loss"] == pytest.approx((literal_tceocs(vectors, text) + literal_tceocs(vectors, image)) / 6)
    assert found["TCEOCS_i"] == pytest.approx(literal_tceocs(vectors, image))
    assert found["chance"] == pytest.approx(2 * np.log(30))
    assert {"R@1_a2t", "R@10_i2a", "medR_t2a"} <= found.keys()


def test_bad_vectors_are_named(rng):
    vectors, targets = pairs(rng, 5)
    with pytest.raises(ValueError, match=r"vectors: 1 of 5 rows are not finite"):
        metrics.align(np.where(np.arange(5)[:, None] == 3, np.nan, vectors), targets)
    with pytest.raises(ValueError, match=r"shape \(5, 16\) and targets \(5, 8\)"):
        metrics.align(vectors, unit(targets[:, :8]))
    with pytest.raises(ValueError, match="targets have norms from"):
        metrics.align(vectors, 2 * targets)
    with pytest.raises(ValueError, match="at least one row"):
        metrics.align(vectors[:0], targets[:0])


def regression(predictions, targets, batch):
    result = metrics.Regression(targets.shape[1])
    for start in range(0, len(targets), batch):
        result.add(predictions[start : start + batch], targets[start : start + batch])
    return result


@pytest.mark.parametrize("size, batch", [(2, 1), (50, 50), (50, 7)])
def test_regression_equals_scikit_learn(rng, size, batch):
    targets = rng.standard_normal((size, 9)).astype(np.float32)
    targets[:, 2] += 1e4  # cancellation would cost every digit
    targets[:, 5] = 0.1  # constant, and 0.1 is not exact in binary
    targets[:, 6] = 3.0
    predictions = targets + 0.7 * rng.standard_normal(targets.shape).astype(np.float32)
    predictions[:, 6] = 3.0
    found = regression(predictions, targets, batch)
    predictions, targets = predictions.astype(np.float64), targets.astype(np.float64)
    expected = [r2_score(targets[:, j], predictions[:, j], force_finite=False) for j in range(9)]
    assert expected[5] == -np.inf and np.isnan(expected[6])
    expected[6] = 1.0  # exactly predicted
    np.testing.assert_allclose(found.r2, expected, rtol=1e-6)
    errors = mean_squared_error(targets, predictions, multioutput="raw_values")
    np.testing.assert_allclose(found.squared_errors / size, errors, rtol=1e-9)
    figures = found.figures()
    assert figures["mu(MSE)"] == pytest.approx(errors.mean(), rel=1e-9)
    assert found.row_errors.mean() == pytest.approx(errors.mean(), rel=1e-9)
    assert figures["mu(R2)"] == -np.inf and np.isnan(figures["sigma(R2)"])


def test_r2_over_the_variables_that_vary(rng):
    targets = rng.standard_normal((40, 6))
    targets[:, 1] = 0.5 + 5e-6 * rng.standard_normal(40)  # constant up to what float32 rounds to, layers deep
    targets[:, 4] = -2.0
    predictions = targets + 0.3 * rng.standard_normal(targets.shape)
    figures = regression(predictions, targets, 9).figures()
    varying = [0, 2, 3, 5]
    expected = r2_score(targets[:, varying], predictions[:, varying], multioutput="raw_values")
    assert figures["constant"] == 2
    assert figures["mu(R2 varying)"] == pytest.approx(expected.mean(), rel=1e-6)
    assert figures["sigma(R2 varying)"] == pytest.approx(expected.std(), rel=1e-6)
    without_constant = regression(np.delete(predictions, 4, 1), np.delete(targets, 4, 1), 9).figures()
    all_five = r2_score(np.delete(targets, 4, 1), np.delete(predictions, 4, 1), multioutput="raw_values")
    assert without_constant["mu(R2)"] == pytest.approx(all_five.mean(), rel=1e-6) and all_five.mean() < -1e8


def test_one_row_has_an_error_but_no_r2():
    found = regression(np.ones((1, 3)), np.zeros((1, 3)), 1)
    assert found.figures()["mu(MSE)"] == 1 and np.isnan(found.r2).all()


def test_intervals_cover_what_they_say(rng):
    covered = 0
    for trial in range(60):
        low, high = metrics.bootstrap(rng.normal(3, 1, 80), resamples=200, seed=trial)
        covered += low <= 3 <= high
    assert 0.85 <= covered / 60 <= 1
    low, high = metrics.wilson(0.5, 100)
    assert (round(low, 4), round(high, 4)) == (0.4038, 0.5962)


def test_nearest(rng):
    rows, others = rng.standard_normal((5, 3, 4)), rng.standard_normal((7, 3, 4))
    expected = np.sqrt(((rows[:, None] - others[None]) ** 2).mean(axis=(2, 3))).min(axis=1)
    np.testing.assert_allclose(metrics.nearest_distances(rows, others), expected, rtol=1e-9)
    np.testing.assert_allclose(metrics.nearest_distances(others, others), 0, atol=1e-6)
