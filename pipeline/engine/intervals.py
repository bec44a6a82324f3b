"""How sure a point's distance is: its interval, the limit of many images, and the influence of each image."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data.features import read_chunk_features
from pipeline.data.samples import spans
from pipeline.data.store import Store
from pipeline.diffusion.labels import Balanced, Labels
from pipeline.metrics.leverage import Expansion, Leverages
from pipeline.metrics.limit import limit_interval
from pipeline.metrics.moments import Float64, Gaussian
from pipeline.metrics.uncertainty import Interval, influences, interval

_PAIRED = 4  # images of a class that are looked at together, at least


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Of one distance to one reference.

    Args:
        interval: of the mean distance of so many images.
        limit: the distance of infinitely many images, with its interval.
        influences: of the images in the order of their seeds, float32 (n,): what a paired comparison needs.
        strata: the class of each, int64 (n,), where every class has its share by design; else None.
    """

    interval: Interval
    limit: Interval
    influences: NDArray[np.float32]
    strata: NDArray[np.int64] | None

    def numbers(self) -> dict[str, Any]:
        """As JSON."""
        return {"interval": list(astuple(self.interval)), "limit": list(astuple(self.limit))}

    @classmethod
    def kept(
        cls, numbers: Mapping[str, Sequence[float]], psi: NDArray[np.float32], strata: NDArray[np.int64] | None
    ) -> "Uncertainty":
        """The inverse of `numbers`."""
        return cls(Interval(*numbers["interval"]), Interval(*numbers["limit"]), psi, strata)


def strata_of(labels: Labels, first_seed: int, count: int, num_classes: int) -> NDArray[np.int64] | None:
    """The classes of seeds where labels are balanced, so that how many images a class has is not chance; else None."""
    if not isinstance(labels, Balanced) or not num_classes:
        return None
    return np.asarray(labels.of(torch.arange(first_seed, first_seed + count), num_classes).numpy())


def uncertainty(
    store: Store, samples: str, extractor: str, first_seed: int, count: int, chunk_size: int, distance: float,
    images: Gaussian, reference: Gaussian, strata: NDArray[np.int64] | None,
) -> Uncertainty | None:  # fmt: skip
    """Of a distance whose images' features are in the store. They are read in groups of chunks: all of them may be more
    than memory holds, and what is kept of an image is some 60 numbers. None where every class has its share of the
    images and fewer than three images, so that nobody knows what varies within a class.

    Raises:
        StoreError: features are damaged.
        ValueError: the images are no more than the features.
    """
    groups = 1 if strata is None else len(np.unique(strata))
    if count < 3 * groups:
        return None
    expansion = Expansion.on(images, reference)
    parts, begun = [], 0
    for features in _groups(store, samples, extractor, spans(first_seed, count, chunk_size), _PAIRED * groups):
        classes = None if strata is None else strata[begun : begun + len(features)]
        parts.append(expansion.of(features, classes))
        begun += len(features)
    leverages = Leverages.joined(parts)
    psi: Float64 = influences(expansion, leverages)
    return Uncertainty(
        interval(distance, psi, strata).at_least(0.0), limit_interval(distance, expansion, leverages),
        psi.astype(np.float32), strata,
    )  # fmt: skip


def _groups(
    store: Store, samples: str, extractor: str, chunks: Sequence[tuple[int, slice]], least: int
) -> Iterator[NDArray[np.float32]]:
    """The features in their order, at least so many at a time but for the last: pairs of one class are among them."""
    waiting: list[NDArray[np.float32]] = []
    for index, part in chunks:
        waiting.append(read_chunk_features(store, samples, extractor, index).features[part])
        if sum(map(len, waiting)) >= least:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)
