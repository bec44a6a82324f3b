"""The kernel distance against torchmetrics, plain loops and how it really spreads."""

import numpy as np
import pytest
import torch

from pipeline.metrics.scores import KID, FeatureSet
from tests.metrics.scores.sets import gaussian, measured

CHECKED = {"kid": "torchmetrics on one subset of all images and on the same subsets, plain loops"}


def kernel(a: np.ndarray, b: np.ndarray) -> float:
    return (float(a.astype(np.float64) @ b.astype(np.float64)) / len(a) + 1) ** 3


def by_loops(x: np.ndarray, y: np.ndarray) -> float:
    xx = np.mean([kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    yy = np.mean([kernel(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    return float(xx + yy - 2 * np.mean([kernel(a, b) for a in x for b in y]))


def torchmetrics_of(x: np.ndarray, y: np.ndarray, subsets: int, size: int) -> float:
    from torchmetrics.image.kid import KernelInceptionDistance

    class Given(torch.nn.Module):
        num_features = x.shape[1]

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images

    metric = KernelInceptionDistance(feature=Given(), subsets=subsets, subset_size=size)
    metric.update(torch.from_numpy(y).double(), real=True)
    metric.update(torch.from_numpy(x).double(), real=False)
    return float(metric.compute()[0])


def test_it_is_that_of_a_double_loop_with_unequal_numbers_of_images() -> None:
    x, y = gaussian(40, 5), gaussian(55, 5, seed=1, shift=0.3)
    assert measured(KID(), x, y).values["kid"].value == pytest.approx(by_loops(x, y), rel=1e-10)


@pytest.mark.usefixtures("torchvision_imports")
def test_of_all_pairs_it_is_that_of_torchmetrics_on_one_subset_of_all_images() -> None:
    x, y = gaussian(300, 16), gaussian(300, 16, seed=1, shift=0.2)
    found = measured(KID(), x, y).values["kid"].value
    assert found == pytest.approx(torchmetrics_of(x, y, 1, 300), rel=1e-6)
    assert measured(KID(subset_size=300, num_subsets=1), x, y).values["kid"].value == pytest.approx(found, rel=1e-9)


@pytest.mark.usefixtures("torchvision_imports")
def test_in_subsets_it_is_that_of_torchmetrics_on_the_same_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = gaussian(90, 8), gaussian(120, 8, seed=1, shift=0.2)
    score = KID(subset_size=40, num_subsets=7)
    drawn = iter([score._subset(number, side, (90, 120)[side]) for number in range(7) for side in (1, 0)])
    monkeypatch.setattr(torch, "randperm", lambda n: torch.from_numpy(next(drawn)))
    assert measured(score, x, y).values["kid"].value == pytest.approx(torchmetrics_of(x, y, 7, 40), rel=1e-6)


def test_subsets_are_drawn_without_replacement_and_differ() -> None:
    score = KID(subset_size=10)
    some = [score._subset(number, 0, 50).tolist() for number in range(5)]
    assert all(len(set(subset)) == 10 for subset in some)
    assert len({tuple(subset) for subset in some}) == 5


def test_the_interval_is_by_what_it_would_be_without_each_image_in_turn() -> None:
    x, y = gaussian(12, 3), gaussian(20, 3, seed=1, shift=0.5)
    without = np.array([by_loops(np.delete(x, i, axis=0), y) for i in range(12)])
    deviation = np.sqrt(11 / 12 * np.square(without - without.mean()).sum())
    found = measured(KID(), x, y).values["kid"]
    assert found.high - found.value == pytest.approx(1.959964 * deviation, rel=1e-6)
    assert found.value - found.low == pytest.approx(1.959964 * deviation, rel=1e-6)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.4])
def test_it_is_unbiased_and_its_interval_holds_the_distance_of_infinitely_many_images(shift: float) -> None:
    """The truth by the moments of a Gaussian: (a b / d + 1)^3 has a mean in closed form. With equal distributions the
    first order vanishes, and all the spread is of pairs."""
    d = 64
    y = FeatureSet(gaussian(300, d, seed=1))
    prepared = KID().prepare(y)
    mean = np.full(d, shift)
    to_reference = np.mean([moment3(mean @ b / d + 1, b @ b / d**2) for b in y.features.astype(np.float64)])
    truth = two_gaussians(d, shift) - 2 * to_reference + float(prepared["within"][0])
    found = [
        KID().measure(FeatureSet(gaussian(100, d, seed=100 + i, shift=shift)), y, prepared).values["kid"]
        for i in range(800)
    ]
    values = np.array([estimate.value for estimate in found])
    assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(len(found))
    covered = np.mean([estimate.low <= truth <= estimate.high for estimate in found])
    assert 0.93 <= covered <= 0.99
    if shift == 0.4:
        assert covered <= 0.97  # where the distance is large, the interval is no wider than it must be


def moment3(mean: np.ndarray | float, variance: np.ndarray | float) -> float:
    """E X^3 of a normal X."""
    return float(np.mean(mean**3 + 3 * mean * variance))


def two_gaussians(d: int, shift: float) -> float:
    """E (a b / d + 1)^3 of independent a and b, N(shift, I): given b, a b / d + 1 is normal. Of |b|^2 = q and 1 b = t
    only means of products up to t^3 and q t are asked, which Gauss and Hermite's rule gives exactly."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    weights = weights / weights.sum()
    t = shift * d + np.sqrt(d) * nodes  # 1 b
    q = t**2 / d + (d - 1)  # |b|^2 = (1 b)^2 / d and d - 1 independent squares of mean 1
    mean = shift * t / d + 1
    return float(weights @ (mean**3 + 3 * mean * q / d**2))
