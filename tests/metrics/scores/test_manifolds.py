"""Precision, recall, density and coverage against scikit-learn, plain loops and known answers."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from pipeline.metrics.scores import DensityCoverage, FeatureSet, PrecisionRecall
from tests.metrics.scores.sets import gaussian, measured

CHECKED = {
    "precision_recall": "balls by scikit-learn and plain loops",
    "density_coverage": "balls by scikit-learn and plain loops, and their known means (Naeem et al. 2020)",
}


def radii(x: np.ndarray, k: int) -> np.ndarray:
    return NearestNeighbors(n_neighbors=k + 1).fit(x).kneighbors(x)[0][:, -1]  # the first one is itself


def far_apart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([[np.sqrt(np.square(a - b).sum()) for b in y] for a in x])


def test_precision_and_recall_are_those_of_balls_by_scikit_learn() -> None:
    x, y = gaussian(150, 4).astype(np.float64), gaussian(180, 4, seed=1, shift=0.8, scale=0.7).astype(np.float64)
    distances = far_apart(x, y)
    for k in (1, 3, 5):
        found = measured(PrecisionRecall(k=k), x, y).values
        assert found["precision"].value == np.mean((distances <= radii(y, k)).any(axis=1))
        assert found["recall"].value == np.mean((distances <= radii(x, k)[:, None]).any(axis=0))


def test_density_and_coverage_are_those_of_loops() -> None:
    x, y = gaussian(150, 4).astype(np.float64), gaussian(180, 4, seed=1, shift=0.5).astype(np.float64)
    within = far_apart(x, y) <= radii(y, 5)
    found = measured(DensityCoverage(), x, y).values
    assert found["density"].value == pytest.approx(within.sum() / (5 * len(x)), rel=1e-12)
    assert found["coverage"].value == within.any(axis=0).mean()


def test_equal_sets_have_all_and_sets_apart_have_nothing() -> None:
    x, far = gaussian(100), gaussian(100, seed=1, shift=100)
    for score, keys in ((PrecisionRecall(), ("precision", "recall")), (DensityCoverage(), ("density", "coverage"))):
        assert all(measured(score, x, far).values[key].value == 0 for key in keys)
    assert all(measured(PrecisionRecall(), x, x).values[key].value == 1 for key in ("precision", "recall"))
    assert measured(DensityCoverage(), x, x).values["coverage"].value == 1


def test_of_equal_distributions_density_is_1_and_coverage_1_less_half_to_the_k() -> None:
    """Naeem et al. 2020, Lemmas 1 and 2: E density = 1; E coverage = 1 - (N-1)...(N-k) / ((2N-1)...(2N-k))."""
    n, k = 300, 5
    found = [measured(DensityCoverage(k=k), gaussian(n, 8, 2 * i), gaussian(n, 8, 2 * i + 1)).values for i in range(40)]
    expected = 1 - np.prod([(n - j) / (2 * n - j) for j in range(1, k + 1)])
    for key, truth in (("density", 1.0), ("coverage", expected)):
        values = np.array([values[key].value for values in found])
        assert values.mean() == pytest.approx(truth, abs=4 * values.std() / np.sqrt(len(values)))


def test_intervals_hold_what_they_are_of() -> None:
    """Many sets of images against one reference. Coverage's may be too wide, and are not much."""
    y = FeatureSet(gaussian(80, 3, seed=1))
    sets = [FeatureSet(gaussian(100, 3, seed=100 + i, shift=0.4)) for i in range(600)]
    for score, key, most in (
        (PrecisionRecall(), "precision", 0.97),
        (DensityCoverage(), "density", 0.97),
        (DensityCoverage(), "coverage", 1.0),
    ):
        prepared = score.prepare(y)
        found = [score.measure(x, y, prepared).values[key] for x in sets]
        mean = np.mean([estimate.value for estimate in found])
        held = np.mean([(estimate.low or 0) <= mean <= (estimate.high or 0) for estimate in found])
        assert 0.93 <= held <= most, key
        if key == "coverage":
            widths = np.mean([(estimate.high or 0) - (estimate.low or 0) for estimate in found])
            assert widths < 1.6 * 2 * 1.96 * np.std([estimate.value for estimate in found])
