"""Class by class: are images of a class recognised as such, and how far are they from the reference's of that class?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.frechet import frechet_distance
from pipeline.metrics.moments import Moments
from pipeline.metrics.scores.base import ClassRow, Estimate, FeatureSet, Found, Need, Number, Prepared
from pipeline.metrics.scores.intervals import around, of_share
from pipeline.metrics.uncertainty import QUANTILE, Influence, half_width

_LEAST = "the least of several has none"
_MEAN = "the mean over classes of the distance of so many images of each"


@dataclass(frozen=True)
class PerClass:
    """Accuracy and Frechet distance of every class by itself (intra-class FID of Miyato and Koyama 2018, arXiv
    1802.05637). A class has a distance where both sides have more images of it than there are features; it is that of
    few images, so compare it with that of the same number alone.
    """

    kind: Literal["per_class"] = "per_class"
    revision: ClassVar[int] = 1
    needs: ClassVar[frozenset[Need]] = frozenset({"labels"})
    uses: ClassVar[frozenset[Need]] = frozenset({"features", "class_logits", "reference", "reference_labels"})
    numbers: ClassVar[tuple[Number, ...]] = (
        Number("accuracy_worst_class", "accuracy, worst class", "more", why_none=_LEAST),
        Number("fd_class_mean", "FD a class, mean", "less", _MEAN),
        Number("fd_class_worst", "FD a class, worst", "less", why_none="the largest of several has none"),
    )

    @property
    def least(self) -> int:
        return 2

    def prepare(self, reference: FeatureSet) -> Prepared:
        return {}

    def measure(self, images: FeatureSet, reference: FeatureSet | None, prepared: Prepared) -> Found:
        assert images.labels is not None
        labels = np.unique(images.labels[images.labels >= 0])
        rows = tuple(_row(int(label), images, reference) for label in labels)
        return Found(_summary(rows), rows)


def _row(label: int, images: FeatureSet, reference: FeatureSet | None) -> ClassRow:
    assert images.labels is not None
    here = images.labels == label
    accuracy = None
    if images.class_logits is not None:
        accuracy = of_share(images.class_logits[here].argmax(axis=1) == label)
    distance = None
    if reference is not None and reference.labels is not None:
        distance = _distance(images.features[here], reference.features[reference.labels == label])
    return ClassRow(label, int(here.sum()), accuracy, distance)


def _distance(x: NDArray[np.float32], y: NDArray[np.float32]) -> Estimate | None:
    if min(len(x), len(y)) <= x.shape[1]:
        return None
    images, reference = Moments.of(x).gaussian(), Moments.of(y).gaussian()
    value = frechet_distance(images, reference).value
    return around(value, half_width(Influence.on(images, reference).of(x)) / QUANTILE, least=0.0)


def _summary(rows: Sequence[ClassRow]) -> dict[str, Estimate]:
    """A mean of distances is told where all classes have one: else it would be of others in every setting."""
    found = {}
    accuracies = [row.accuracy.value for row in rows if row.accuracy is not None]
    distances = [row.distance for row in rows if row.distance is not None]
    if accuracies:
        found["accuracy_worst_class"] = Estimate(min(accuracies))
    if distances and len(distances) == len(rows):
        halves = [(distance.high or 0.0) - distance.value for distance in distances]
        deviation = float(np.linalg.norm(halves)) / len(rows) / QUANTILE  # images of one class tell nothing of another
        mean = float(np.mean([distance.value for distance in distances]))
        found["fd_class_mean"] = around(mean, deviation, least=0.0)
        found["fd_class_worst"] = Estimate(max(distance.value for distance in distances))
    return found
