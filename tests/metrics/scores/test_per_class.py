"""Class by class, against scikit-learn, scipy and torchmetrics' formula."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import sqrtm
from sklearn.metrics import accuracy_score

from pipeline.metrics.scores import PerClass
from tests.metrics.scores.sets import full, measured

CHECKED = {"per_class": "scikit-learn's accuracy, the distance by scipy's matrix root"}


def distance(x: np.ndarray, y: np.ndarray) -> float:
    a, b = np.cov(x.astype(float), rowvar=False), np.cov(y.astype(float), rowvar=False)
    means = np.square(x.mean(axis=0, dtype=float) - y.mean(axis=0, dtype=float)).sum()
    return float(means + np.trace(a + b - 2 * sqrtm(a @ b).real))


def test_every_class_has_its_own_accuracy_and_distance() -> None:
    images, reference = full(300), full(240, seed=1, shift=0.3)
    found = measured(PerClass(), images, reference)
    assert [row.label for row in found.classes] == [0, 1, 2]
    for row in found.classes:
        mine, theirs = images.labels == row.label, reference.labels == row.label
        assert row.num_images == 100
        assert row.accuracy.value == accuracy_score(images.labels[mine], images.class_logits[mine].argmax(axis=1))
        expected = distance(images.features[mine], reference.features[theirs])
        assert row.distance.value == pytest.approx(expected, rel=1e-6)
    assert found.values["fd_class_mean"].value == pytest.approx(np.mean([row.distance.value for row in found.classes]))
    assert found.values["fd_class_worst"].value == max(row.distance.value for row in found.classes)
    assert found.values["accuracy_worst_class"].value == min(row.accuracy.value for row in found.classes)


def test_a_class_of_too_few_images_has_no_distance_and_then_all_have_no_mean() -> None:
    images, reference = full(120), full(200, seed=1)
    few = images.labels.copy()
    few[np.flatnonzero(few == 2)[6:]] = 1
    found = measured(PerClass(), replace(images, labels=few), reference)
    assert [row.distance is None for row in found.classes] == [False, False, True]
    assert set(found.values) == {"accuracy_worst_class"}


def test_images_without_a_label_are_of_no_class() -> None:
    images = full(120)
    labels = np.where(np.arange(120) < 60, images.labels, -1)
    assert sum(row.num_images for row in measured(PerClass(), replace(images, labels=labels)).classes) == 60


def test_intervals_of_the_mean_over_classes_hold_the_mean_of_so_many_images() -> None:
    reference = full(600, seed=1)
    found = [
        measured(PerClass(), full(180, seed=10 + i, shift=0.4), reference).values["fd_class_mean"] for i in range(400)
    ]
    mean = np.mean([estimate.value for estimate in found])
    assert 0.92 <= np.mean([estimate.low <= mean <= estimate.high for estimate in found]) <= 0.98
