"""The limit of infinitely many images, on distributions whose limit is known, and how often intervals hold."""

import numpy as np
import pytest

from benchmarks.calibration import DRAWS, Case, coverage
from pipeline.metrics.frechet import frechet_distance
from pipeline.metrics.leverage import Expansion, Leverages
from pipeline.metrics.limit import limit_interval
from pipeline.metrics.moments import Gaussian, Moments


def covered(case: Case, repetitions: int) -> tuple[float, float]:
    """The shares of intervals that hold the mean distance, and the limit."""
    found = coverage(case, np.array(list(case.repetitions(range(repetitions)))))
    return found.mean_coverage, found.limit_coverage


@pytest.mark.parametrize(
    "case", [Case(draw, 16, ratio) for draw in ("gaussian", "mixture", "classes") for ratio in (5, 25)], ids=str
)
def test_95_of_100_intervals_hold_the_mean_distance_and_the_limit(case: Case) -> None:
    mean, limit = covered(case, 1000)
    assert 0.93 <= mean <= 0.97
    assert 0.93 <= limit <= 0.97


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", [Case(draw, 256, 5) for draw in ("gaussian", "mixture", "classes")], ids=str)
def test_95_of_100_intervals_hold_both_with_256_features(case: Case) -> None:
    mean, limit = covered(case, 1000)
    assert 0.93 <= mean <= 0.97
    assert 0.93 <= limit <= 0.97


def test_the_bias_of_few_images_is_seen_and_taken_away() -> None:
    case = Case("mixture", 64, 4)
    rows = np.array(list(case.repetitions(range(40))))
    _, _, images, reference = case.truth()
    true = frechet_distance(images, reference).value
    found = coverage(case, rows)
    error = found.limit_deviation / np.sqrt(len(rows))
    assert found.mean > true + 20 * error
    assert abs(found.limit_mean - true) < 3 * error


def test_classes_of_equal_shares_make_the_interval_narrower_and_the_bias_less() -> None:
    case = Case("classes", 16, 20)
    mean, factor, _, reference = case.truth()
    x = DRAWS["classes"](case.count, 16, np.random.default_rng(0)) @ factor.T + mean
    images = Moments.of(x).gaussian()
    expansion = Expansion.on(images, reference)
    distance = frechet_distance(images, reference).value
    by_class = limit_interval(distance, expansion, expansion.of(x, np.arange(len(x)) % 10))
    by_chance = limit_interval(distance, expansion, expansion.of(x))
    assert by_class.half_width < 0.8 * by_chance.half_width
    assert by_chance.value < by_class.value < distance


def test_images_of_the_reference_itself_are_at_no_distance_in_the_limit() -> None:
    case = Case("gaussian", 64, 4, null=True)
    found = coverage(case, np.array(list(case.repetitions(range(200)))))
    assert found.mean > 4
    assert abs(found.limit_mean) < 3 * found.limit_deviation / np.sqrt(200)
    assert found.limit_coverage >= 0.95


def test_the_limit_of_a_wishart_matrix_is_that_of_marchenko_and_pastur() -> None:
    """Equal leverages: the closed form of what the trace of the root loses, by its density."""
    random = np.random.default_rng(0)
    d, n = 200, 1000
    x = random.standard_normal((n, d))
    images, reference = Moments.of(x).gaussian(), Gaussian(np.zeros(d), np.eye(d))
    edges = (1 - np.sqrt(d / n)) ** 2, (1 + np.sqrt(d / n)) ** 2
    grid = np.linspace(*edges, 200_001)
    density = np.sqrt((grid - edges[0]) * (edges[1] - grid)) / (2 * np.pi * d / n * grid)
    lost = d * (1 - np.trapezoid(np.sqrt(grid) * density, grid))
    expansion = Expansion.on(images, reference)
    distance = frechet_distance(images, reference).value
    found = limit_interval(distance, expansion, expansion.of(x)).value
    assert distance - d / n - found == pytest.approx(2 * lost, rel=0.01)


def test_the_reference_scaled_scales_the_limit() -> None:
    case = Case("mixture", 8, 10)
    mean, factor, _, reference = case.truth()
    x = np.random.default_rng(1).normal(size=(80, 8)) @ factor.T + mean
    values = []
    for scale in (1.0, 7.0):
        expansion = Expansion.on(
            Moments.of(scale * x).gaussian(), Gaussian(scale * reference.mean, scale**2 * reference.covariance)
        )
        values.append(limit_interval(scale**2 * 30.0, expansion, expansion.of(scale * x)))
    assert values[1].value == pytest.approx(49 * values[0].value, rel=1e-5)
    assert values[1].high == pytest.approx(49 * values[0].high, rel=1e-5)


def test_leverages_in_parts_are_those_of_the_whole_and_all_of_them_are_needed() -> None:
    case = Case("gaussian", 8, 10)
    mean, factor, _, reference = case.truth()
    x = np.random.default_rng(2).normal(size=(80, 8)) @ factor.T + mean
    expansion = Expansion.on(Moments.of(x).gaussian(), reference)
    whole, parts = expansion.of(x), Leverages.joined([expansion.of(x[:31]), expansion.of(x[31:])])
    one, two = (limit_interval(30.0, expansion, leverages) for leverages in (whole, parts))
    assert one.value == pytest.approx(two.value, rel=1e-10)
    assert one.low == pytest.approx(two.low, rel=1e-10)
    with pytest.raises(ValueError, match="leverages of all 80 images"):
        limit_interval(30.0, expansion, expansion.of(x[:31]))


def test_one_image_that_alone_has_a_feature_breaks_nothing() -> None:
    case = Case("gaussian", 6, 10)
    mean, factor, _, reference = case.truth()
    x = np.random.default_rng(3).normal(size=(60, 6)) @ factor.T + mean
    alone = np.zeros((60, 1))
    alone[5] = 4.0
    wider = Gaussian(np.append(reference.mean, 0.0), np.pad(reference.covariance, (0, 1)) + np.diag([0.0] * 6 + [1.0]))
    y = np.column_stack([x, alone])
    images = Moments.of(y).gaussian()
    expansion = Expansion.on(images, wider)
    found = limit_interval(frechet_distance(images, wider).value, expansion, expansion.of(y))
    assert np.isfinite([found.value, found.low, found.high]).all()
