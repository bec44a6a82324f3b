"""Are images copies of the reference? How near is each to its nearest one, and how near are these to each other, or
images that were held out?"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from pipeline.metrics.scores.base import Estimate, FeatureSet, Found, Need, Number, Pair, Prepared, at_least
from pipeline.metrics.scores.intervals import of_mean, of_median, of_share
from pipeline.metrics.scores.neighbours import Float64, nearest

_THESE = "of all images of this network, against this reference"


@dataclass(frozen=True)
class Nearest:
    """A check for memorization (as in Karras et al. 2018, arXiv 1710.10196, by features): the distance of every image
    to the nearest of the reference, which should be the training images, beside the same distance of each of these to
    the nearest other one. Images as new as the reference's own have a `near_ratio` of 1 and a `near_share` of about
    `quantile`; copies have a ratio of 0 and a share of 1.

    A training set has near twins that no new image has, so images that were held out are the better measure (Meehan et
    al. 2020, arXiv 2004.05675): `copied_share` is the share of images that are nearer to the reference than the nearest
    `quantile` of held-out ones, and `copied_odds` how often an image is nearer than a held-out one: a half where they
    are as new, 1 where all are copies (the U statistic of that paper as a probability, over one cell).

    Args:
        quantile: images count as near that are nearer than this share of the reference's own are to each other, or of
            held-out ones to the reference.
        pairs: so many of the nearest pairs are shown.
    """

    kind: Literal["nearest"] = "nearest"
    quantile: float = 0.01
    pairs: int = 10
    revision: ClassVar[int] = 2
    needs: ClassVar[frozenset[Need]] = frozenset({"features", "reference"})
    uses: ClassVar[frozenset[Need]] = frozenset({"held_out"})
    numbers: ClassVar[tuple[Number, ...]] = (
        Number("near_ratio", "nearest, ratio", "neither", f"the ratio of medians {_THESE}"),
        Number("near_share", "nearer than usual", "neither", f"the share {_THESE}"),
        Number("copied_share", "nearer than held-out", "neither", f"the share {_THESE} and these held-out images"),
        Number("copied_odds", "P(nearer than held-out)", "neither", f"the mean {_THESE} and these held-out images"),
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
        found = {"median": np.array([np.median(own)]), "limit": np.array([np.quantile(own, self.quantile)])}
        if reference.held_out is None:
            return found
        new = np.sqrt(nearest(reference.held_out, reference.features, 1)[0][:, 0])
        return {**found, "held_out": np.sort(new)}

    def measure(self, images: FeatureSet, reference: FeatureSet | None, prepared: Prepared) -> Found:
        assert reference is not None
        squares, indices = nearest(images.features, reference.features, 1)
        distances = np.sqrt(squares[:, 0])
        first = np.argsort(distances, kind="stable")[: self.pairs]
        pairs = tuple(Pair(int(i), int(indices[i, 0]), float(distances[i])) for i in first)
        values = {"near_share": of_share(distances < prepared["limit"][0], images.strata)}
        usual = float(prepared["median"][0])
        if usual > 0:  # where most of the reference has a twin there is no ratio
            median = of_median(distances, images.strata)
            ends = (None if end is None else end / usual for end in (median.low, median.high))
            values["near_ratio"] = Estimate(median.value / usual, *ends)
        if "held_out" in prepared:
            limit = np.quantile(prepared["held_out"], self.quantile)
            values["copied_share"] = of_share(distances < limit, images.strata)
            odds = of_mean(_farther(prepared["held_out"], distances), 0.0, images.strata)
            values["copied_odds"] = Estimate(odds.value, odds.low, min(odds.high or 1.0, 1.0))
        return Found(values, pairs=pairs)


def _farther(ordered: Float64, distances: Float64) -> Float64:
    """The share of some ascending distances that are larger than each of others; equal ones count half."""
    smaller, not_larger = (np.searchsorted(ordered, distances, side) for side in ("left", "right"))
    return np.asarray(1 - (smaller + not_larger) / 2 / len(ordered))
