"""By how much two settings differ on the same seeds: far more exactly than each is known by itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from pipeline.data.features import read_chunk_features
from pipeline.data.samples import spans
from pipeline.data.store import Store
from pipeline.engine.references import Reference
from pipeline.engine.work import ExtractorPlan, Seeds
from pipeline.metrics.frechet import frechet_distance
from pipeline.metrics.moments import Float64, Moments
from pipeline.metrics.uncertainty import Influence, half_width


@dataclass(frozen=True)
class Difference:
    """Of two Frechet distances on the same seeds.

    Args:
        value: the first one's less the second one's.
        half_width: half its 95 % interval; None where there are no more images than features.
        second: the second one's distance.
    """

    value: float
    half_width: float | None
    second: float

    @property
    def worse_at_most(self) -> float | None:
        """The upper end of the interval, as a share of the second one's distance."""
        return None if self.half_width is None else (self.value + self.half_width) / self.second


def paired_difference(
    store: Store, samples: tuple[str, str], seeds: Seeds, chunk_size: int, plan: ExtractorPlan, reference: Reference
) -> Difference:
    """The difference of the distances of two settings whose features are in the store.

    Args:
        samples: the digests of their samples.

    Raises:
        StoreError: features are not there, or are damaged.
    """

    def features(digest: str) -> Iterator[Float64]:
        for index, part in spans(seeds.first, seeds.count, chunk_size):
            yield np.asarray(read_chunk_features(store, digest, plan.digest, index).features[part], np.float64)

    of = [reduce(add, map(Moments.of, features(digest))).gaussian() for digest in samples]
    first, second = (frechet_distance(gaussian, reference.gaussian) for gaussian in of)
    width = None
    if not (first.rank_deficient or second.rank_deficient):
        influences = [
            np.concatenate([Influence.on(gaussian, reference.gaussian).of(part) for part in features(digest)])
            for digest, gaussian in zip(samples, of, strict=True)
        ]
        width = half_width(influences[0] - influences[1])
    return Difference(first.value - second.value, width, second.value)
