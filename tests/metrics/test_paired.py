"""Comparisons on common seeds, against how often they are right on pairs that share noise."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from pipeline.metrics.frechet import frechet_distance
from pipeline.metrics.moments import Gaussian, Moments
from pipeline.metrics.paired import Comparison, compare, images_to_tell, spread
from pipeline.metrics.proportions import mcnemar, paired_shares, wilson
from pipeline.metrics.uncertainty import Influence, half_width

D, N = 12, 240
REFERENCE = Gaussian(np.zeros(D), np.diag(np.linspace(0.5, 2, D)))


def one_pair(random: np.random.Generator, shared: float = 0.9) -> tuple[Comparison, float]:
    """Two settings that see the same noise but for a little, and the sum of their half widths."""
    common = random.normal(size=(N, D)) * np.where(random.random(N) < 0.3, 1.5, 0.8)[:, None]
    own = [random.normal(size=(N, D)) for _ in range(2)]
    pair = [shared * common + math.sqrt(1 - shared**2) * noise for noise in own]
    pair[0] = 1.05 * pair[0] + 0.1
    images = [Moments.of(x).gaussian() for x in pair]
    distances = [frechet_distance(gaussian, REFERENCE).value for gaussian in images]
    psi = [Influence.on(gaussian, REFERENCE).of(x) for gaussian, x in zip(images, pair, strict=True)]
    return compare(*distances, *psi), half_width(psi[0]) + half_width(psi[1])


def test_95_of_100_paired_intervals_hold_the_mean_difference_and_are_narrower_than_two() -> None:
    random = np.random.default_rng(0)
    found = [one_pair(random) for _ in range(1000)]
    differences = [comparison.difference for comparison, _ in found]
    mean = np.mean([difference.value for difference in differences])
    assert 0.93 <= np.mean([d.low <= mean <= d.high for d in differences]) <= 0.97
    widths = [difference.half_width for difference in differences]
    assert np.mean(widths) < 0.5 * np.mean([both for _, both in found])
    assert np.mean([comparison.correlation for comparison, _ in found]) > 0.5


def test_how_sure_it_is_is_uniform_where_two_settings_are_equally_good() -> None:
    random = np.random.default_rng(1)
    sure = []
    for _ in range(2000):
        common = random.normal(size=300)
        one, two = common + random.normal(size=300), common + random.normal(size=300)
        sure.append(compare(one.mean(), two.mean(), one, two).p_better)
    np.testing.assert_allclose(
        np.quantile(sure, [0.05, 0.25, 0.5, 0.75, 0.95]), [0.05, 0.25, 0.5, 0.75, 0.95], atol=0.03
    )


def test_the_other_way_round_a_comparison_says_the_same() -> None:
    random = np.random.default_rng(2)
    one, two = random.exponential(size=(2, 50))
    there, back = compare(3.0, 2.8, one, two), compare(2.8, 3.0, two, one)
    assert there.difference.low == pytest.approx(-back.difference.high)
    assert there.difference.high == pytest.approx(-back.difference.low)
    assert there.p_better + back.p_better == pytest.approx(1)
    assert (there.images, there.error) == (back.images, back.error)
    assert there.correlation == pytest.approx(back.correlation)


def test_so_many_images_tell_a_difference_in_8_of_10_repetitions() -> None:
    n = int(images_to_tell(0.2, 1.0))
    assert n == math.ceil(((1.959964 + 0.841621) / 0.2) ** 2)
    random = np.random.default_rng(3)
    told = 0
    for _ in range(2000):
        psi = 0.2 + random.normal(size=n)
        told += compare(psi.mean(), 0.0, psi, np.zeros(n)).difference.low > 0
    assert told / 2000 == pytest.approx(0.8, abs=0.03)
    assert images_to_tell(0.0, 1.0) == math.inf
    with pytest.raises(ValueError, match="between 0 and 1"):
        images_to_tell(1.0, 1.0, power=1.0)


def test_a_setting_compared_with_itself_is_no_better() -> None:
    psi = np.random.default_rng(4).normal(size=30)
    found = compare(2.0, 2.0, psi, psi)
    assert (found.difference.low, found.difference.high, found.p_better) == (0.0, 0.0, 0.5)
    assert found.correlation == pytest.approx(1)
    with pytest.raises(ValueError, match="of 30 and 29 images"):
        compare(2.0, 2.0, psi, psi[:-1])


def test_the_least_of_some_ranges_is_reported_as_such_and_is_not_the_estimate() -> None:
    found = spread([2.0, 1.8, 2.2])
    assert (found.mean, found.least) == (pytest.approx(2.0), 1.8)
    assert found.deviation == pytest.approx(0.2)
    assert str(found) == "2 ± 0.2 over 3 ranges of seeds (the least of them 1.8)"
    assert math.isnan(spread([1.0]).deviation)
    with pytest.raises(ValueError, match="no values"):
        spread([])


@pytest.mark.parametrize(("successes", "count"), [(0, 10), (3, 10), (50, 50), (912, 1000)])
def test_the_interval_of_a_share_is_scipys(successes: int, count: int) -> None:
    expected = binomtest(successes, count).proportion_ci(method="wilson")
    found = wilson(successes, count)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.low <= found.value == successes / count <= found.high


def test_95_of_100_intervals_of_a_paired_difference_of_shares_hold_it() -> None:
    random = np.random.default_rng(5)
    held, true = 0, norm.cdf(1.3) - norm.cdf(1.1)
    for _ in range(3000):
        common = random.normal(size=200)
        one, two = (0.8 * common + 0.6 * random.normal(size=200) for _ in range(2))
        found = paired_shares(one < 1.3, two < 1.1)
        held += found.low <= true <= found.high
    assert 0.93 <= held / 3000 <= 0.975


def test_mcnemar_counts_only_the_images_in_which_two_settings_differ() -> None:
    one = np.array([True] * 9 + [False] * 1 + [True] * 90)
    two = np.array([False] * 9 + [True] * 1 + [True] * 90)
    assert mcnemar(one, two) == pytest.approx(2 * 11 / 2**10)
    assert mcnemar(one, two) == mcnemar(one[:10], two[:10])
    assert mcnemar(one, one) == 1.0
