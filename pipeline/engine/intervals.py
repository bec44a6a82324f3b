"""How sure a point's distance is: its interval, the limit of many images, and the influence of each image."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.features import read_chunk_features
from pipeline.data.samples import spans
from pipeline.data.store import Store
from pipeline.metrics.leverage import Expansion, Leverages
from pipeline.metrics.limit import limit_interval
from pipeline.metrics.moments import Float64, Gaussian
from pipeline.metrics.uncertainty import Interval, influences, interval


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Of one distance to one reference.

    Args:
        interval: of the mean distance of so many images.
        limit: the distance of infinitely many images, with its interval.
        influences: of the images in the order of their seeds, float32 (n,): what a paired comparison needs.
    """

    interval: Interval
    limit: Interval
    influences: NDArray[np.float32]

    def numbers(self) -> dict[str, Any]:
        """As JSON."""
        return {"interval": list(astuple(self.interval)), "limit": list(astuple(self.limit))}

    @classmethod
    def kept(cls, numbers: Mapping[str, Sequence[float]], psi: NDArray[np.float32]) -> "Uncertainty":
        """The inverse of `numbers`."""
        return cls(Interval(*numbers["interval"]), Interval(*numbers["limit"]), psi)


def uncertainty(
    store: Store, samples: str, extractor: str, first_seed: int, count: int, chunk_size: int, distance: float,
    images: Gaussian, reference: Gaussian,
) -> Uncertainty:  # fmt: skip
    """Of a distance whose images' features are in the store. They are read chunk by chunk: all of them may be more than
    memory holds, and what is kept of an image is some 60 numbers.

    Raises:
        StoreError: features are damaged.
        ValueError: the images are no more than the features.
    """
    expansion = Expansion.on(images, reference)
    leverages = Leverages.joined(
        [
            expansion.of(read_chunk_features(store, samples, extractor, index).features[part])
            for index, part in spans(first_seed, count, chunk_size)
        ]
    )
    psi: Float64 = influences(expansion, leverages)
    return Uncertainty(
        interval(distance, psi).at_least(0.0), limit_interval(distance, expansion, leverages), psi.astype(np.float32)
    )
