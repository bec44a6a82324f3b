"""Rank correlations against scipy's, and their interval where the truth is known."""

import math

import numpy as np
import pytest
from scipy import stats

from pipeline.metrics.rank_correlation import rank_correlation


@pytest.mark.parametrize("ties", [False, True])
def test_both_are_what_scipy_computes(ties: bool) -> None:
    generator = np.random.default_rng(2)
    one, two = generator.normal(size=(2, 30))
    two = one + two
    if ties:
        one, two = np.round(one), np.round(two)
    found = rank_correlation(list(one), list(two), resamples=10)
    assert found.kendall == pytest.approx(stats.kendalltau(one, two).statistic, abs=1e-12)
    assert found.spearman == pytest.approx(stats.spearmanr(one, two).statistic, abs=1e-12)
    assert found.count == 30


def test_the_interval_covers_the_correlation_of_the_population() -> None:
    """Of normal pairs of correlation r, tau is 2 / pi asin(r)."""
    generator = np.random.default_rng(3)
    r, covered = 0.8, 0
    truth = 2 / math.pi * math.asin(r)
    for repeat in range(200):
        one, two = generator.multivariate_normal([0, 0], [[1, r], [r, 1]], size=40).T
        interval = rank_correlation(list(one), list(two), seed=repeat, resamples=300).kendall_interval
        assert interval is not None
        covered += interval[0] <= truth <= interval[1]
    assert 0.88 <= covered / 200 <= 1.0


def test_few_settings_have_no_interval_and_equal_ones_no_correlation() -> None:
    assert rank_correlation([1, 2, 3], [1, 2, 3]).kendall_interval is None
    assert rank_correlation([1, 2, 3], [1, 2, 3]).kendall == pytest.approx(1.0)
    assert math.isnan(rank_correlation([1, 1, 1, 1], [1, 2, 3, 4]).kendall)
    assert math.isnan(rank_correlation([], []).spearman)


def test_the_same_seed_gives_the_same_interval() -> None:
    one, two = [1.0, 4.0, 2.0, 3.0, 6.0, 5.0], [1.0, 3.0, 2.0, 4.0, 5.0, 6.0]
    assert rank_correlation(one, two, seed=5) == rank_correlation(one, two, seed=5)
