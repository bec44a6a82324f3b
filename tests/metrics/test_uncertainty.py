"""Influences against the derivative that they are, and intervals against how distances really spread."""

from collections.abc import Callable

import numpy as np
import pytest

from pipeline.metrics.frechet import frechet_distance
from pipeline.metrics.moments import Gaussian, Moments
from pipeline.metrics.uncertainty import Influence, half_width


def truth(d: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Gaussian]:
    """The mean and a factor of the covariance of images, and a reference of other directions and other sizes."""
    factor = np.linalg.qr(random.normal(size=(d, d)))[0] * np.exp(random.normal(0, 0.5, d))
    axes = np.linalg.qr(random.normal(size=(d, d)))[0]
    return (
        2 * random.normal(size=d) / np.sqrt(d),
        factor,
        Gaussian(np.zeros(d), (axes * np.linspace(0.3, 3, d)) @ axes.T),
    )


def normal(n: int, d: int, random: np.random.Generator) -> np.ndarray:
    return random.normal(size=(n, d))


def mixed(n: int, d: int, random: np.random.Generator) -> np.ndarray:
    """Two groups of unlike sizes, one wide and apart: heavy tails, as features have them."""
    wide = random.random(n) < 0.3
    return random.normal(size=(n, d)) * np.where(wide, 1.5, 0.7)[:, None] + np.where(wide, 1.4, -0.6)[
        :, None
    ] / np.sqrt(d)


Draw = Callable[[int, int, np.random.Generator], np.ndarray]


def spread(draw: Draw, d: int, n: int, repetitions: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and half widths of as many independent sets of n images."""
    random = np.random.default_rng(0)
    mean, factor, reference = truth(d, random)
    found = []
    for _ in range(repetitions):
        x = draw(n, d, random) @ factor.T + mean
        gaussian = Moments.of(x).gaussian()
        width = half_width(Influence.on(gaussian, reference).of(x))
        found.append((frechet_distance(gaussian, reference).value, width))
    distances, widths = np.array(found).T
    return distances, widths


def coverage(draw: Draw, d: int, n: int, repetitions: int) -> float:
    distances, widths = spread(draw, d, n, repetitions)
    return float(np.mean(np.abs(distances - distances.mean()) <= widths))


@pytest.mark.parametrize("draw", [normal, mixed])
@pytest.mark.parametrize("n", [80, 400])
def test_95_of_100_intervals_hold_the_mean_distance(draw: Draw, n: int) -> None:
    assert 0.93 <= coverage(draw, 16, n, 1000) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("draw", [normal, mixed])
@pytest.mark.parametrize("n", [1280, 6400])
def test_95_of_100_intervals_hold_the_mean_distance_with_256_features(draw: Draw, n: int) -> None:
    assert 0.93 <= coverage(draw, 256, n, 2000) <= 0.97


def test_an_influence_is_what_a_little_more_weight_of_the_image_does_to_the_distance() -> None:
    random = np.random.default_rng(1)
    _, factor, reference = truth(12, random)
    x = random.normal(size=(50, 12)) @ factor.T + 0.3

    def weighted(weights: np.ndarray) -> float:
        weights = weights / weights.sum()
        mean = weights @ x
        covariance = (weights[:, None] * (x - mean)).T @ (x - mean)
        return frechet_distance(Gaussian(mean, covariance), reference).value

    covariance = np.cov(x.T, bias=True)
    psi = Influence.on(Gaussian(x.mean(axis=0), covariance, 50), reference).of(x)
    assert abs(psi.mean()) < 1e-9 * np.abs(psi).max()
    for index in (0, 7, 49):
        step = np.zeros(50)
        step[index] = 1e-4
        derivative = (weighted(np.ones(50) + step) - weighted(np.ones(50) - step)) / 2e-4
        assert psi[index] / 50 == pytest.approx(derivative, rel=1e-5, abs=1e-8)


def test_influences_of_parts_are_those_of_the_whole_and_the_order_of_images_does_not_matter() -> None:
    random = np.random.default_rng(2)
    _, factor, reference = truth(8, random)
    x = (random.normal(size=(60, 8)) @ factor.T).astype(np.float32)
    influence = Influence.on(Moments.of(x).gaussian(), reference)
    parts = np.concatenate([influence.of(x[:13]), influence.of(x[13:])])
    np.testing.assert_allclose(parts, influence.of(x), rtol=1e-12, atol=1e-12)
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
    assert half_width(Influence.on(Moments.of(x).gaussian(), point).of(x)) == pytest.approx(expected, rel=1e-6)
