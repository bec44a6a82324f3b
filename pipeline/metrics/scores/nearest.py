"""Are images copies of the reference? How near is each to its nearest one, and how near are these to each other?"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from pipeline.metrics.scores.base import Estimate, FeatureSet, Found, Need, Number, Pair, Prepared, at_least
from pipeline.metrics.scores.intervals import of_median, of_share
from pipeline.metrics.scores.neighbours import nearest

_THESE = "of all images of this network, against this reference"


@dataclass(frozen=True)
class Nearest:
    """A check for memorization (as in Karras et al. 2018, arXiv 1710.10196, by features): the distance of every image
    to the nearest of the reference, which should be the training images, beside the same distance of each of these to
    the nearest other one. Images as new as the reference's own have a `near_ratio` of 1 and a `near_share` of about
    `quantile`; copies have a ratio of 0 and a share of 1.

    Args:
        quantile: images count as near that are nearer than this share of the reference's own are to each other.
        pairs: so many of the nearest pairs are shown.
    """

    kind: Literal["nearest"] = "nearest"
    quantile: float = 0.01
    pairs: int = 10
    revision: ClassVar[int] = 1
    needs: ClassVar[frozenset[Need]] = frozenset({"features", "reference"})
    uses: ClassVar[frozenset[Need]] = frozenset()
    numbers: ClassVar[tuple[Number, ...]] = (
        Number("near_ratio", "nearest, ratio", "neither", f"the ratio of medians {_THESE}"),
        Number("near_share", "nearer than usual", "neither", f"the share {_THESE}"),
    )

    def __post_init__(self) -> None:
        at_least(pairs=(self.pairs, 0))
        if not 0 < self.quantile < 1:
            raise ValueError(f"quantile: must lie in (0, 1) (got {self.quantile})")

    @property
    def least(self) -> int:
        return 2

    def prepare(self, reference: FeatureSet) -> Prepared:
        own = np.sqrt(nearest(reference.features, reference.features, 1, itself=True)[0][:, 0])
        return {"median": np.array([np.median(own)]), "limit": np.array([np.quantile(own, self.quantile)])}

    def measure(self, images: FeatureSet, reference: FeatureSet | None, prepared: Prepared) -> Found:
        assert reference is not None
        squares, indices = nearest(images.features, reference.features, 1)
        distances = np.sqrt(squares[:, 0])
        first = np.argsort(distances, kind="stable")[: self.pairs]
        pairs = tuple(Pair(int(i), int(indices[i, 0]), float(distances[i])) for i in first)
        values = {"near_share": of_share(distances < prepared["limit"][0])}
        usual = float(prepared["median"][0])
        if usual > 0:  # where most of the reference has a twin there is no ratio
            median = of_median(distances)
            ends = (None if end is None else end / usual for end in (median.low, median.high))
            values["near_ratio"] = Estimate(median.value / usual, *ends)
        return Found(values, pairs=pairs)
