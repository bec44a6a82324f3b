"""Intervals of images of which every class has its share: they hold the truth in 95 of 100 repetitions, and those that
ignore the classes in nearly all, for they are too wide."""

from collections.abc import Callable

import numpy as np
import pytest

from pipeline.metrics.scores import DensityCoverage, Estimate, FeatureSet, InceptionScore, PrecisionRecall
from pipeline.metrics.scores.intervals import of_mean, of_median, of_share
from tests.metrics.scores.sets import gaussian, measured

CLASSES, EACH, REPEATS = 10, 30, 1500
STRATA = np.arange(CLASSES * EACH) % CLASSES
MEANS = np.linspace(-2, 2, CLASSES)[STRATA]
CHANCES = np.linspace(0.02, 0.98, CLASSES)[STRATA]


def normal(random: np.random.Generator) -> np.ndarray:
    return np.asarray(random.normal(MEANS))


def chance(random: np.random.Generator) -> np.ndarray:
    return np.asarray(random.random(len(STRATA)) < CHANCES)


def covered(found: list[Estimate], truth: float) -> float:
    return float(np.mean([(one.low or 0) <= truth <= (one.high or 0) for one in found]))


@pytest.mark.parametrize(
    ("draw", "interval", "truth"),
    [
        (normal, lambda x, strata: of_mean(x, strata=strata), 0.0),
        (chance, of_share, 0.5),
        (normal, of_median, 0.0),
    ],
)
def test_intervals_hold_the_truth_in_95_of_100(
    draw: Callable[..., np.ndarray], interval: Callable[..., Estimate], truth: float
) -> None:
    random = np.random.default_rng(0)
    samples = [draw(random) for _ in range(REPEATS)]
    found = [interval(sample, STRATA) for sample in samples]
    assert 0.935 <= covered(found, truth) <= 0.985
    plain = [interval(sample, None) for sample in samples]
    assert covered(plain, truth) > 0.97
    assert np.mean([one.high - one.low for one in found]) < 0.85 * np.mean([one.high - one.low for one in plain])


def test_a_share_within_classes_that_are_alike_is_as_unsure_as_without_them() -> None:
    random = np.random.default_rng(0)
    for share in (0.03, 0.5):
        found = [of_share(random.random(len(STRATA)) < share, STRATA) for _ in range(REPEATS)]
        assert 0.93 <= covered(found, share) <= 0.98


def test_a_share_that_follows_from_the_class_alone_is_not_taken_for_certain() -> None:
    found = of_share(STRATA < 5, STRATA)
    assert 0.48 < found.low < 0.5 < found.high < 0.52
    assert of_share(STRATA < 99, STRATA) == of_share(STRATA < 99)  # all are


def test_classes_of_one_image_each_are_no_strata() -> None:
    values = gaussian(20)[:, 0].astype(np.float64)
    assert of_mean(values, strata=np.arange(20)) == of_mean(values)
    assert of_share(values > 0, np.arange(20)) == of_share(values > 0)
    assert of_median(values, np.arange(20)) == of_median(values)


def test_scores_of_balanced_classes_use_them() -> None:
    """Classes lie apart, and are not equally near to the reference: intervals are narrower, and hold the mean over many
    sets of images."""
    centres = 8 * np.eye(5, dtype=np.float32)
    widths = np.array([0.6, 0.8, 1.0, 1.2, 1.4], np.float32)
    which = np.arange(200) % 5

    def images(seed: int) -> FeatureSet:
        noise = gaussian(200, 5, seed)
        features = centres[which] + noise * widths[which, None]
        return FeatureSet(features, logits=features * np.float32(0.3) / widths[which, None], strata=which)

    reference = FeatureSet(np.concatenate([centres[which] + gaussian(200, 5, seed) for seed in (1000, 1001)]))
    for score, key in (
        (PrecisionRecall(), "precision"),
        (DensityCoverage(), "density"),
        (DensityCoverage(), "coverage"),
        (InceptionScore(splits=1), "inception_score"),
    ):
        sets = [images(seed) for seed in range(150)]
        found = [measured(score, one, reference).values[key] for one in sets]
        plain = [measured(score, FeatureSet(one.features, one.logits), reference).values[key] for one in sets[:20]]
        truth = float(np.mean([one.value for one in found]))
        assert covered(found, truth) >= 0.91, key
        narrower = np.mean([one.high - one.low for one in found[:20]]) / np.mean([one.high - one.low for one in plain])
        assert narrower < 1, key
