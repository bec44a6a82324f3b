"""How many balls of the reference an image lies in, and how many of these balls hold an image."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.scores.base import Estimate, FeatureSet, Found, Need, Number, Prepared, at_least
from pipeline.metrics.scores.intervals import Strata, around, jackknife, of_mean
from pipeline.metrics.scores.neighbours import distances_in_blocks
from pipeline.metrics.scores.precision_recall import squared_radii


@dataclass(frozen=True)
class DensityCoverage:
    """Density and coverage (Naeem et al. 2020, arXiv 2002.09797): as precision and recall with the balls of the
    reference alone, which outliers among the images cannot blow up. Density may exceed 1.

    Args:
        k: which neighbour the radius of a ball reaches.
    """

    kind: Literal["density_coverage"] = "density_coverage"
    k: int = 5
    revision: ClassVar[int] = 2
    needs: ClassVar[frozenset[Need]] = frozenset({"features", "reference"})
    uses: ClassVar[frozenset[Need]] = frozenset()
    numbers: ClassVar[tuple[Number, ...]] = (
        Number("density", "density", "more", "the mean over all images of this network, against this reference"),
        Number("coverage", "coverage", "more", "the mean coverage by so many images; too wide rather than too narrow"),
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
        balls = np.zeros(len(images), np.int64)  # of the reference, that an image lies in
        held = np.zeros(len(reference), np.int64)  # images within a ball
        last = np.zeros(len(reference), np.int64)  # the sum of their indices: of a single one, its index
        for rows, columns, distances in distances_in_blocks(images.features, reference.features):
            within = distances <= prepared["radii"][columns]
            balls[rows] += within.sum(axis=1)
            held[columns] += within.sum(axis=0)
            last[columns] += np.arange(rows.start, rows.stop) @ within
        return Found(
            {
                "density": of_mean(balls / self.k, least=0.0, strata=images.strata),
                "coverage": _coverage(held, last, len(images), images.strata),
            }
        )


def _coverage(held: NDArray[np.int64], last: NDArray[np.int64], n: int, strata: Strata) -> Estimate:
    """With the interval of the jackknife, whose variance is too large on average (Efron and Stein 1981): without an
    image, the balls that it alone was in are not covered."""
    alone = np.bincount(last[held == 1], minlength=n) / len(held)
    found = around(float((held > 0).mean()), jackknife(alone, strata), least=0.0)
    return Estimate(found.value, found.low, min(found.high or 0.0, 1.0))
