"""The distance against closed forms, torchmetrics' own metric, scipy's matrix root and the nuclear norm."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.metrics.frechet import frechet_distance
from pipeline.metrics.moments import Gaussian, Moments


def features(num: int, d: int, seed: int, decay: float = 1.5) -> np.ndarray:
    """Correlated features whose variances fall by a power, as those of real networks do."""
    random = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(99).normal(size=(d, d)))[0]
    return (random.normal(size=(num, d)) * np.arange(1, d + 1) ** (-decay / 2) + 0.3 * seed) @ basis


def gaussian(num: int, d: int, seed: int) -> Gaussian:
    return Moments.of(features(num, d, seed)).gaussian()


def by_nuclear_norm(x: np.ndarray, y: np.ndarray) -> float:
    """Exact for any rank: with A = X^T X and B = Y^T Y, Tr((A B)^(1/2)) is the sum of the singular values of X Y^T."""
    centred_x = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    centred_y = (y - y.mean(axis=0)) / np.sqrt(len(y) - 1)
    root = np.linalg.svd(centred_x @ centred_y.T, compute_uv=False).sum()
    means = np.square(x.mean(axis=0) - y.mean(axis=0)).sum()
    return float(means + np.square(centred_x).sum() + np.square(centred_y).sum() - 2 * root)


def by_torchmetrics(x: np.ndarray, y: np.ndarray) -> float:
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Given(torch.nn.Module):
        num_features = x.shape[1]

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images

    metric = FrechetInceptionDistance(feature=Given())
    metric.update(torch.from_numpy(x), real=True)
    metric.update(torch.from_numpy(y), real=False)
    return float(metric.compute())


def by_scipy(a: Gaussian, b: Gaussian) -> float:
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    means = np.square(a.mean - b.mean).sum()
    return float(means + np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.trace(root).real)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9), st.floats(0.01, 9), st.floats(0.01, 9)), min_size=1))
def test_diagonal_gaussians_have_the_closed_form(rows: list[tuple[float, float, float, float]]) -> None:
    mean_a, mean_b, sd_a, sd_b = np.array(rows).T
    found = frechet_distance(Gaussian(mean_a, np.diag(sd_a**2)), Gaussian(mean_b, np.diag(sd_b**2)))
    expected = np.square(mean_a - mean_b).sum() + np.square(sd_a - sd_b).sum()
    scale = np.square(sd_a).sum() + np.square(sd_b).sum()
    assert found.value == pytest.approx(expected, rel=1e-10, abs=1e-12 * scale)
    assert not found.rank_deficient


@pytest.mark.parametrize("d", [16, 64, 256])
def test_it_agrees_with_torchmetrics_and_scipy(d: int, torchvision_imports: None) -> None:
    x, y = features(4 * d, d, 1), features(3 * d, d, 2)
    a, b = Moments.of(x).gaussian(), Moments.of(y).gaussian()
    found = frechet_distance(a, b)
    assert not found.rank_deficient
    assert found.value == pytest.approx(by_torchmetrics(x, y), rel=1e-6)
    assert found.value == pytest.approx(by_scipy(a, b), rel=1e-6)
    assert found.value == pytest.approx(by_nuclear_norm(x, y), rel=1e-9)


@pytest.mark.parametrize(("num_a", "num_b"), [(20, 30), (30, 20), (2, 2), (64, 65), (20, 500), (500, 20), (64, 64)])
def test_fewer_images_than_features_are_measured_and_marked(num_a: int, num_b: int, torchvision_imports: None) -> None:
    x, y = features(num_a, 64, 1), features(num_b, 64, 2)
    found = frechet_distance(Moments.of(x).gaussian(), Moments.of(y).gaussian())
    assert found.rank_deficient
    assert found.value == pytest.approx(by_nuclear_norm(x, y), rel=1e-9)
    assert found.value == pytest.approx(by_torchmetrics(x, y), rel=1e-6)


@pytest.mark.parametrize("decay", [0.5, 3.0, 8.0])
def test_few_images_of_which_some_are_the_same_have_no_more_rank_than_there_are_kinds(decay: float) -> None:
    x, y = np.repeat(features(20, 64, 1, decay), 2, axis=0), features(500, 64, 2, decay)
    found = frechet_distance(Moments.of(x).gaussian(), Moments.of(y).gaussian())
    assert found.rank_deficient
    assert found.value == pytest.approx(by_nuclear_norm(x, y), rel=1e-8)


@pytest.mark.parametrize("num", [40, 65, 1000])
def test_a_singular_covariance_is_recognised_without_the_count(num: int) -> None:
    x = features(num, 64, 1)
    y = features(1000, 64, 2)
    if num > 64:
        x[:, 5] = x[:, 6]  # a feature twice: singular, however many images there are
    a = Moments.of(x).gaussian()
    found = frechet_distance(Gaussian(a.mean, a.covariance), Moments.of(y).gaussian())
    assert found.rank_deficient
    assert found.value == pytest.approx(by_nuclear_norm(x, y), rel=1e-7)


def test_features_that_never_vary_are_no_lack_of_images(torchvision_imports: None) -> None:
    """They make both covariances singular, and the distance is that of the others."""
    x, y = features(300, 32, 1), features(200, 32, 2)
    a, b = (Moments.of(np.pad(part, ((0, 0), (0, 5)))).gaussian() for part in (x, y))
    found = frechet_distance(a, b)
    assert not found.rank_deficient
    expected = frechet_distance(Moments.of(x).gaussian(), Moments.of(y).gaussian())
    assert found.value == pytest.approx(expected.value, rel=1e-9)
    assert found.value == pytest.approx(
        by_torchmetrics(np.pad(x, ((0, 0), (0, 5))), np.pad(y, ((0, 0), (0, 5)))), rel=1e-6
    )


def test_a_variance_of_rounding_noise_counts_as_none() -> None:
    noisy = Gaussian(np.zeros(2), np.diag([1.0, 1e-17]))
    found = frechet_distance(noisy, Gaussian(np.zeros(2), np.eye(2)))
    assert found.rank_deficient
    assert found.value == pytest.approx(1.0, rel=1e-7)


@pytest.mark.parametrize("num", [30, 400])
def test_equal_gaussians_have_no_distance(num: int) -> None:
    a = gaussian(num, 64, 3)
    found = frechet_distance(a, a).value
    assert 0 <= found < 1e-12 * np.trace(a.covariance)


def test_the_distance_is_symmetric_and_does_not_depend_on_the_basis() -> None:
    a, b = gaussian(300, 48, 1), gaussian(300, 48, 2)
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(48, 48)))[0]
    turned = [Gaussian(turn @ g.mean, turn @ g.covariance @ turn.T) for g in (a, b)]
    expected = frechet_distance(a, b).value
    assert frechet_distance(b, a).value == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(*turned).value == pytest.approx(expected, rel=1e-9)


def test_points_without_spread_are_as_far_apart_as_their_means() -> None:
    a, b = (Gaussian(np.array(mean), np.zeros((2, 2))) for mean in ([0.0, 0.0], [3.0, 4.0]))
    found = frechet_distance(a, b)
    assert (found.value, found.rank_deficient) == (25.0, True)


def test_unlike_numbers_of_features_are_refused() -> None:
    with pytest.raises(ValueError, match="16 and 8 features"):
        frechet_distance(gaussian(50, 16, 1), gaussian(50, 8, 1))
