"""Copies are found, and images as new as the reference's own are not taken for any."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import binom, mannwhitneyu
from sklearn.neighbors import NearestNeighbors

from pipeline.metrics.scores import FeatureSet, Nearest
from pipeline.metrics.scores.intervals import of_median, of_share
from pipeline.metrics.scores.neighbours import nearest
from tests.metrics.scores.sets import gaussian, measured

CHECKED = {"nearest": "scipy's distances and Mann-Whitney statistic, scikit-learn's neighbours"}


def test_neighbours_are_those_of_scikit_learn() -> None:
    x, y = gaussian(90).astype(np.float64), gaussian(130, seed=1).astype(np.float64)
    distances, indices = nearest(x, y, 4)
    expected, theirs = NearestNeighbors(n_neighbors=4).fit(y).kneighbors(x)
    np.testing.assert_allclose(np.sqrt(distances), expected, rtol=1e-9)
    np.testing.assert_array_equal(indices, theirs)
    with pytest.raises(ValueError, match="have no 3 neighbours each"):
        nearest(x[:3], x[:3], 3, itself=True)


def test_ratio_and_share_are_those_of_all_distances() -> None:
    x, y = gaussian(200).astype(np.float64), gaussian(300, seed=1).astype(np.float64)
    own = cdist(y, y)
    np.fill_diagonal(own, np.inf)
    usual, mine = own.min(axis=1), cdist(x, y).min(axis=1)
    found = measured(Nearest(quantile=0.05), x, y)
    assert found.values["near_ratio"].value == pytest.approx(np.median(mine) / np.median(usual), rel=1e-9)
    assert found.values["near_share"].value == np.mean(mine < np.quantile(usual, 0.05))


def test_new_images_are_as_near_as_the_reference_is_to_itself() -> None:
    found = measured(Nearest(quantile=0.1), gaussian(2000, 4), gaussian(2000, 4, seed=1)).values
    assert 0.95 < found["near_ratio"].value < 1.05
    assert 0.08 < found["near_share"].value < 0.12


def test_copies_are_named_first_with_their_originals() -> None:
    y = gaussian(500, seed=1)
    x = gaussian(400)
    x[[7, 31]] = y[[400, 12]] + np.float32(1e-4)
    pairs = measured(Nearest(pairs=5), x, y).pairs
    assert {(pair.image, pair.reference) for pair in pairs[:2]} == {(7, 400), (31, 12)}
    assert len(pairs) == 5
    assert [pair.distance for pair in pairs] == sorted(pair.distance for pair in pairs)
    assert measured(Nearest(), y[:300], y).values["near_ratio"].value < 1e-6
    assert measured(Nearest(), y[:300], y).values["near_share"].value == 1


def test_copies_are_told_from_new_images_by_images_that_were_held_out() -> None:
    training, new, other = (gaussian(2000, 4, seed) for seed in (1, 2, 3))
    reference = FeatureSet(training, held_out=new)
    found = measured(Nearest(quantile=0.05), other, reference).values
    assert found["copied_odds"].value == pytest.approx(0.5, abs=0.03)
    assert found["copied_share"].value == pytest.approx(0.05, abs=0.02)
    copies = other.copy()
    copies[::4] = training[:500] + np.float32(1e-5)
    found = measured(Nearest(quantile=0.05), copies, reference).values
    assert found["copied_share"].value == pytest.approx(0.25 + 0.75 * 0.05, abs=0.02)
    assert found["copied_odds"].value == pytest.approx(0.25 + 0.75 * 0.5, abs=0.02)


def test_the_odds_of_a_copy_are_the_statistic_of_mann_and_whitney() -> None:
    training, new, images = gaussian(300, seed=1), gaussian(200, seed=2), gaussian(150)
    images[:50] = training[200:250] + np.float32(0.01)
    mine, theirs = (cdist(set_, training).min(axis=1) for set_ in (images, new))
    expected = mannwhitneyu(theirs, mine).statistic / len(mine) / len(theirs)
    found = measured(Nearest(), images, FeatureSet(training, held_out=new)).values["copied_odds"]
    assert found.value == pytest.approx(expected, abs=1e-9)


def test_a_training_set_of_near_twins_hides_copies_unless_images_were_held_out() -> None:
    base = gaussian(1000, 4, seed=1)
    training = np.concatenate([base, base + np.float32(1e-3) * gaussian(1000, 4, seed=4)])
    copies = training[:500] + np.float32(2e-3) * gaussian(500, 4, seed=5)
    found = measured(Nearest(), copies, FeatureSet(training, held_out=gaussian(1000, 4, seed=2))).values
    assert found["near_share"].value < 0.05
    assert found["copied_share"].value > 0.9


def test_a_reference_of_twins_has_no_ratio() -> None:
    y = gaussian(50, seed=1)
    assert set(measured(Nearest(), gaussian(40), np.concatenate([y, y])).values) == {"near_share"}


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_intervals_of_a_share_are_wilsons_and_cover(share: float) -> None:
    n = 200
    covered = 0.0
    for count in range(n + 1):
        found = of_share(np.arange(n) < count)
        covered += binom.pmf(count, n, share) * (found.low <= share <= found.high)
    assert 0.93 <= covered <= 1


def test_intervals_of_a_median_cover_it() -> None:
    random = np.random.default_rng(0)
    found = [of_median(random.exponential(size=101)) for _ in range(3000)]
    assert 0.945 <= np.mean([estimate.low <= np.log(2) <= estimate.high for estimate in found]) <= 0.975
    assert of_median(np.arange(5.0)).low is None


def test_the_ranks_of_a_median_are_quantiles_of_the_binomial_distribution() -> None:
    for n in (*range(6, 400), 4_999, 5_000, 50_000, 1_000_000):
        values = np.arange(float(n))
        low, high = binom.ppf((0.025, 0.975), n, 0.5)
        assert (of_median(values).low, of_median(values).high) == (low - 1, high)
