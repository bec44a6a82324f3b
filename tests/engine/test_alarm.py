"""The alarm: how often it is raised where nothing is wrong, and where something is. Distances in closed form.

Images are normal features of variance v against a reference of variance 1: the distance of infinitely many is
d (sqrt(v) - 1)^2 + |mean|^2, known without any code of ours.
"""

import math

import numpy as np
import pytest
from scipy.stats import norm, t

from pipeline.engine.alarm import Margin, better_beyond_doubt, contrast, judge, spread_margin
from pipeline.engine.slot_result import Measured, from_record, to_blobs
from pipeline.metrics.frechet import frechet_distance
from pipeline.metrics.moments import Gaussian, Moments
from pipeline.metrics.uncertainty import Influence

D, N = 4, 400
REFERENCE = Gaussian(np.zeros(D), np.eye(D), 10**9)


def measured(features: np.ndarray, first_seed: int = 0, name: str = "heun", protocol: str = "p") -> Measured:
    images = Moments.of(features).gaussian()
    psi = Influence.on(images, REFERENCE).of(features).astype(np.float32)
    distance = frechet_distance(images, REFERENCE).value
    return Measured(name, "FD", distance, 0.0, 1.0, first_seed, len(features), protocol, "s", psi)


def images(rng: np.random.Generator, std: float, count: int = N) -> np.ndarray:
    return std * rng.standard_normal((count, D))


def distance_of(std: float) -> float:
    """Of infinitely many."""
    return D * (std - 1) ** 2


@pytest.mark.parametrize("unit", ["share", "distance"])
def test_on_disjoint_seeds_equal_slots_raise_it_as_seldom_as_the_level_says(unit: str) -> None:
    rng, level, repetitions = np.random.default_rng(1), 0.02, 1500
    margin = Margin(0.0, unit, level)  # type: ignore[arg-type]
    alarms = 0
    for _ in range(repetitions):
        new, old = measured(images(rng, 1.3), 1000), measured(images(rng, 1.3), 0)
        alarms += judge([new], [old], margin).verdict == "regression"
    bound = level * repetitions + 4 * math.sqrt(level * repetitions)
    assert level * repetitions / 3 < alarms < bound


def test_at_the_margin_itself_it_is_raised_no_more_often_than_the_level() -> None:
    rng, level, repetitions = np.random.default_rng(2), 0.02, 1000
    old_std, new_std = 1.3, 1.36
    margin = Margin(distance_of(new_std) / distance_of(old_std) - 1, "share", level)
    alarms = 0
    for _ in range(repetitions):
        pair = measured(images(rng, new_std), 1000), measured(images(rng, old_std), 0)
        alarms += judge([pair[0]], [pair[1]], margin).verdict == "regression"
    assert alarms < level * repetitions + 4 * math.sqrt(level * repetitions)


def test_what_is_told_to_be_visible_is_found_in_eight_of_ten_slots() -> None:
    rng, level, repetitions = np.random.default_rng(3), 0.001, 400
    margin = Margin(0.1, "share", level)
    old = measured(images(rng, 1.3, 4000), 0)
    change = judge([measured(images(rng, 1.3, 4000), 9000)], [old], margin).changes[0]
    worse = 1 + math.sqrt((distance_of(1.3) + change.visible) / D)
    found = 0
    for _ in range(repetitions):
        pair = measured(images(rng, worse, 4000), 9000), measured(images(rng, 1.3, 4000), 0)
        found += judge([pair[0]], [pair[1]], margin).verdict == "regression"
    assert 0.7 < found / repetitions < 0.9


def test_a_distance_beyond_the_margin_that_may_be_chance_is_doubtful() -> None:
    rng = np.random.default_rng(11)
    old = measured(images(rng, 1.3))
    found = [judge([measured(images(rng, 1.36), 1000 + k)], [old], Margin(0.0)) for k in range(20)]
    assert {judgement.verdict for judgement in found} >= {"doubtful"}
    for judgement in found:
        change = judgement.changes[0]
        assert (judgement.verdict == "good") == (change.beyond <= 0)
        assert (judgement.verdict == "regression") == (change.p < 0.001)


def test_common_seeds_see_what_disjoint_ones_do_not() -> None:
    rng = np.random.default_rng(4)
    noise = rng.standard_normal((N, D))
    new, old = measured(1.32 * noise), measured(1.30 * noise)
    other = measured(1.32 * rng.standard_normal((N, D)), 5000)
    assert contrast(new, old).paired
    assert not contrast(other, old).paired
    assert contrast(new, old).error < contrast(other, old).error / 5
    assert judge([new], [old], Margin(0.0)).verdict == "regression"
    assert judge([other], [old], Margin(0.0)).verdict != "regression"


def test_the_same_images_again_are_no_regression_even_without_a_margin() -> None:
    same = measured(images(np.random.default_rng(5), 1.3))
    judgement = judge([same], [same], Margin(0.0))
    assert judgement.verdict == "good"
    assert judgement.changes[0].p == 1.0


def test_with_more_settings_each_must_be_surer() -> None:
    rng = np.random.default_rng(6)
    noise = rng.standard_normal((N, D))
    old, other = measured(1.3 * noise), rng.standard_normal((N, D))
    scales = np.arange(1.3, 1.6, 0.001)
    new = next(m for scale in scales if contrast(m := measured(scale * other, 9000), old).p < 0.0009)
    assert judge([new], [old], Margin(0.0)).verdict == "regression"
    settings = [measured(1.3 * noise, name=f"other {k}") for k in range(9)]
    assert judge([new, *settings], [old, *settings], Margin(0.0)).verdict == "doubtful"


def test_what_was_measured_in_another_way_or_has_no_interval_is_compared_with_nothing() -> None:
    rng = np.random.default_rng(7)
    new, old = measured(images(rng, 2.0), protocol="q"), measured(images(rng, 1.3))
    judgement = judge([new], [old], Margin(0.1))
    assert judgement.verdict == "first"
    assert "was measured in another way before" in judgement.why
    assert judge([new], [], Margin(0.1)).verdict == "first"
    bare = Measured("heun", "FD", 9.0, None, None, 0, N, "p", "s")
    assert "has no interval" in judge([bare], [old], Margin(0.1)).why


def test_better_beyond_doubt_means_every_setting() -> None:
    rng = np.random.default_rng(8)
    noise = rng.standard_normal((N, D))
    champion = [measured(1.4 * noise, name=name) for name in ("heun", "euler")]
    better = [measured(1.2 * noise, name=name) for name in ("heun", "euler")]
    assert better_beyond_doubt(better, champion, 0.001)
    assert not better_beyond_doubt([better[0], champion[1]], champion, 0.001)
    assert not better_beyond_doubt(champion, better, 0.001)
    assert not better_beyond_doubt(better, champion[:1], 0.001)


def test_what_a_slot_keeps_is_what_it_compares_with() -> None:
    rng = np.random.default_rng(9)
    old = [measured(images(rng, 1.3), name=name) for name in ("heun", "euler")]
    kept = from_record([setting.numbers() for setting in old], to_blobs(old)["influences.safetensors"])
    new = [measured(images(rng, 1.5), 1000, name) for name in ("heun", "euler")]
    assert judge(new, kept, Margin(0.1)) == judge(new, old, Margin(0.1))


def test_the_margin_of_a_spread_is_passed_by_an_equal_version_as_seldom_as_the_level_says() -> None:
    rng, level, repetitions = np.random.default_rng(10), 0.01, 20_000
    versions = rng.normal(5.0, 0.3, (repetitions, 8))
    new, old = rng.normal(5.0, 0.3, (2, repetitions))
    margins = [spread_margin({str(k): value for k, value in enumerate(row)}, level) for row in versions[:50]]
    s = versions.std(axis=1, ddof=1)
    formula = t.ppf(1 - level, 7) * math.sqrt(2) * s
    assert margins == pytest.approx(list(formula[:50]))
    passed = np.mean(new - old > formula)
    assert passed < level + 4 * math.sqrt(level / repetitions)
    assert spread_margin({"1": 1.0, "2": 2.0}) is None
    assert norm.isf(level) * math.sqrt(2) * 0.3 < np.mean(formula)  # what is not known of the spread costs width
