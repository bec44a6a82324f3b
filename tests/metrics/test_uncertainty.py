"""Influences against leaving images out, and intervals against what they should be."""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import norm
from scipy.stats import t as student

from pipeline.metrics.frechet import frechet_distance
from pipeline.metrics.moments import Gaussian, Moments
from pipeline.metrics.uncertainty import Influence, Interval, half_width, interval


def truth(d: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Gaussian]:
    """The mean and a factor of the covariance of images, and a reference of other directions and other sizes."""
    factor = np.linalg.qr(random.normal(size=(d, d)))[0] * np.exp(random.normal(0, 0.5, d))
    axes = np.linalg.qr(random.normal(size=(d, d)))[0]
    return (
        2 * random.normal(size=d) / np.sqrt(d),
        factor,
        Gaussian(np.zeros(d), (axes * np.linspace(0.3, 3, d)) @ axes.T),
    )


def test_an_influence_is_what_the_distance_loses_without_the_image() -> None:
    random = np.random.default_rng(1)
    _, factor, reference = truth(12, random)
    x = random.normal(size=(50, 12)) @ factor.T + 0.3
    x[0] *= 5  # far out: the first order alone would be wrong

    def distance(features: np.ndarray) -> float:
        return frechet_distance(Moments.of(features).gaussian(), reference).value

    psi = Influence.on(Moments.of(x).gaussian(), reference).of(x)
    lost = np.array([49 * (distance(x) - distance(np.delete(x, index, axis=0))) for index in range(50)])
    np.testing.assert_allclose(psi, lost, rtol=1e-5, atol=1e-4)


def test_many_images_have_the_influence_of_the_delta_method() -> None:
    random = np.random.default_rng(6)
    _, factor, reference = truth(5, random)
    x = random.normal(size=(20_000, 5)) @ factor.T + 0.3
    images = Moments.of(x).gaussian()
    inverse_root = np.linalg.inv(np.real(sqrtm(reference.covariance @ images.covariance)))
    curvature = np.eye(5) - inverse_root @ reference.covariance
    c = x - images.mean
    expected = 2 * c @ (images.mean - reference.mean) + np.einsum("nd,de,ne->n", c, curvature, c)
    expected -= expected.mean()
    psi = Influence.on(images, reference).of(x)
    assert np.abs(psi - expected).max() < 0.01 * np.abs(expected).max()


def test_influences_of_parts_are_those_of_the_whole_and_the_order_of_images_does_not_matter() -> None:
    random = np.random.default_rng(2)
    _, factor, reference = truth(8, random)
    x = (random.normal(size=(60, 8)) @ factor.T).astype(np.float32)
    influence = Influence.on(Moments.of(x).gaussian(), reference)
    parts = np.concatenate([influence.of(x[:13]), influence.of(x[13:])])
    np.testing.assert_allclose(parts, influence.of(x), rtol=1e-9, atol=1e-9)
    assert half_width(parts) == pytest.approx(half_width(parts[::-1]), rel=1e-12)


def test_a_feature_that_never_varies_changes_nothing() -> None:
    random = np.random.default_rng(3)
    mean, factor, reference = truth(6, random)
    x = random.normal(size=(100, 6)) @ factor.T + mean
    wider = Gaussian(np.append(reference.mean, 1.0), np.pad(reference.covariance, (0, 1)))
    y = np.column_stack([x, np.full(100, 1.0)])
    narrow = Influence.on(Moments.of(x).gaussian(), reference).of(x)
    wide = Influence.on(Moments.of(y).gaussian(), wider).of(y)
    np.testing.assert_allclose(wide, narrow, rtol=1e-8, atol=1e-8)


def test_no_more_images_than_features_have_no_interval() -> None:
    random = np.random.default_rng(4)
    reference = truth(8, random)[2]
    few = Moments.of(random.normal(size=(8, 8))).gaussian()
    with pytest.raises(ValueError, match="more images than the 8 features"):
        Influence.on(few, reference)
    with pytest.raises(ValueError, match="between 8 and 6 features"):
        Influence.on(few, truth(6, random)[2])


def test_the_distance_to_a_single_image_is_a_mean_square_and_so_is_its_interval() -> None:
    x = np.random.default_rng(5).normal(size=(200, 4))
    point = Gaussian(np.ones(4), np.zeros((4, 4)), 600)
    squares = np.square(x - 1).sum(axis=1)
    expected = 1.959964 * squares.std(ddof=1) / np.sqrt(200)
    found = interval(1.0, Influence.on(Moments.of(x).gaussian(), point).of(x))
    assert found.half_width == pytest.approx(expected, rel=0.1)
    assert found.high - 1 > 1 - found.low  # squares are skew


def test_an_interval_without_skewness_is_that_of_students_t() -> None:
    psi = norm.ppf((np.arange(40) + 0.5) / 40)
    error = psi.std(ddof=1) / np.sqrt(40)
    found = interval(3.0, psi)
    assert found.low + found.high == pytest.approx(6.0, abs=1e-12)
    assert half_width(psi) == pytest.approx(student.ppf(0.975, 39) * error, rel=3e-3)


def test_intervals_of_skew_numbers_miss_more_evenly_than_those_of_students_t() -> None:
    random = np.random.default_rng(7)
    draws = random.exponential(size=(4000, 60))
    found = [interval(x.mean(), x) for x in draws]
    below, above = (np.mean([i.high < 1 for i in found]), np.mean([i.low > 1 for i in found]))
    reach = student.ppf(0.975, 59) * draws.std(axis=1, ddof=1) / np.sqrt(60)
    students = np.mean(draws.mean(axis=1) + reach < 1), np.mean(draws.mean(axis=1) - reach > 1)
    assert 0.03 < below + above < sum(students)
    assert abs(below - above) < 0.5 * abs(students[0] - students[1])


def test_an_interval_of_one_number_again_and_again_is_that_number() -> None:
    assert interval(2.0, np.ones(10)) == Interval(2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="at least 3 images"):
        interval(2.0, np.ones(2))
