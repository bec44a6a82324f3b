"""Two sets of images as manifolds: balls about every image, out to its k-th nearest neighbour in its own set."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from pipeline.metrics.scores.base import Estimate, FeatureSet, Found, Need, Number, Prepared, at_least
from pipeline.metrics.scores.intervals import of_share
from pipeline.metrics.scores.neighbours import distances_in_blocks, nearest


@dataclass(frozen=True)
class PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991): the share of images within a ball of
    the reference, and of reference images within a ball of an image. Both depend on the number of images.

    Args:
        k: which neighbour the radius of a ball reaches.
    """

    kind: Literal["precision_recall"] = "precision_recall"
    k: int = 3
    revision: ClassVar[int] = 2
    needs: ClassVar[frozenset[Need]] = frozenset({"features", "reference"})
    uses: ClassVar[frozenset[Need]] = frozenset()
    numbers: ClassVar[tuple[Number, ...]] = (
        Number("precision", "precision", "more", "the share of all images of this network within this reference"),
        Number(
            "recall",
            "recall",
            "more",
            why_none="no image counts for its own ball alone",
        ),
    )

    def __post_init__(self) -> None:
        at_least(k=(self.k, 1))

    @property
    def least(self) -> int:
        return self.k + 1

    def prepare(self, reference: FeatureSet) -> Prepared:
        return {"radii": squared_radii(reference, self.k)}

    def measure(self, images: FeatureSet, reference: FeatureSet | None, prepared: Prepared) -> Found:
        assert reference is not None
        radii = squared_radii(images, self.k)
        inside, covered = np.zeros(len(images), bool), np.zeros(len(reference), bool)
        for rows, columns, distances in distances_in_blocks(images.features, reference.features):
            inside[rows] |= (distances <= prepared["radii"][columns]).any(axis=1)
            covered[columns] |= (distances <= radii[rows, None]).any(axis=0)
        return Found({"precision": of_share(inside, images.strata), "recall": Estimate(float(covered.mean()))})


def squared_radii(images: FeatureSet, k: int) -> np.ndarray:
    """The squared distance of every image to the k-th nearest other one, shape (N,)."""
    return nearest(images.features, images.features, k, itself=True)[0][:, -1]
