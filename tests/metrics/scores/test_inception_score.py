"""The Inception score against torchmetrics, and where it is known."""

import numpy as np
import pytest
import torch

from pipeline.metrics.scores import FeatureSet, InceptionScore
from tests.metrics.scores.sets import measured

CHECKED = {"inception_score": "torchmetrics on the same splits"}


def logits(n: int, k: int = 10, seed: int = 0, scale: float = 2.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, (n, k)).astype(np.float32)


def score(values: np.ndarray, splits: int = 10) -> float:
    images = FeatureSet(np.zeros((len(values), 1), np.float32), logits=values)
    return measured(InceptionScore(splits=splits), images).values["inception_score"].value


@pytest.mark.usefixtures("torchvision_imports")
@pytest.mark.parametrize("splits", [1, 10])
def test_it_is_that_of_torchmetrics_on_the_same_splits(splits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchmetrics.image.inception import InceptionScore as Theirs

    class Given(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images

    metric = Theirs(feature=Given(), splits=splits)
    values = logits(400)
    metric.update(torch.from_numpy(values).double())
    monkeypatch.setattr(torch, "randperm", lambda n: torch.arange(n))
    assert score(values, splits) == pytest.approx(float(metric.compute()[0]), rel=1e-6)


def test_certain_answers_spread_over_all_classes_score_their_number_and_equal_answers_score_1() -> None:
    certain = 100 * np.eye(7, dtype=np.float32)[np.arange(140) % 7]
    assert score(certain, splits=1) == pytest.approx(7, rel=1e-9)
    assert score(np.tile(logits(1), (50, 1))) == pytest.approx(1, rel=1e-9)


def test_95_of_100_intervals_hold_the_mean_score_of_so_many_images() -> None:
    found = []
    for seed in range(1000):
        images = FeatureSet(np.zeros((200, 1), np.float32), logits=logits(200, seed=seed))
        found.append(measured(InceptionScore(splits=4), images).values["inception_score"])
    mean = np.mean([estimate.value for estimate in found])
    covered = np.mean([(estimate.low or 0) <= mean <= (estimate.high or 0) for estimate in found])
    assert 0.93 <= covered <= 0.97
