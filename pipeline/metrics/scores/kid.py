"""The kernel distance of features: squared maximum mean discrepancy with a polynomial kernel, unbiased.

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y),        k(a, b) = (a b / d + 1)^3

Every expectation is estimated without the pairs of an image with itself, so the mean of the estimate does not depend on
the number of images, and the estimate may be negative.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.scores.base import Estimate, FeatureSet, Found, Need, Number, Prepared, at_least
from pipeline.metrics.scores.intervals import around
from pipeline.metrics.scores.neighbours import Float64, blocks

_WHOLE = "the kernel distance of infinitely many images to this reference set; it is also the mean at any n"


@dataclass(frozen=True)
class KID:
    """Kernel distance (Binkowski et al. 2018, arXiv 1801.01401): unbiased at any number of images. Called KID with the
    published Inception network alone.

    By default of all pairs at once: it has the mean of the published estimator, which averages over random subsets, and
    the least spread that an unbiased one can have (Hoeffding 1948). Its interval is by the jackknife, whose variance is
    too large on average (Efron and Stein 1981), never too small. With `subset_size` it is as published, on subsets that
    are always the same.

    Args:
        subset_size: images of a subset; empty takes all pairs of all images.
        num_subsets: how many, if in subsets.
    """

    kind: Literal["kid"] = "kid"
    subset_size: int | None = None
    num_subsets: int = 100
    revision: ClassVar[int] = 1
    needs: ClassVar[frozenset[Need]] = frozenset({"features", "reference"})
    uses: ClassVar[frozenset[Need]] = frozenset()
    numbers: ClassVar[tuple[Number, ...]] = (
        Number("kid", "KID", "less", _WHOLE, "subsets share images, so their spread is no interval", "kd", "KD"),
    )

    def __post_init__(self) -> None:
        at_least(
            subset_size=(2 if self.subset_size is None else self.subset_size, 2), num_subsets=(self.num_subsets, 1)
        )

    @property
    def least(self) -> int:
        return max(3, self.subset_size or 0)

    def prepare(self, reference: FeatureSet) -> Prepared:
        if self.subset_size is not None:
            return {}
        return {"within": np.array([_within(reference.features)])}

    def measure(self, images: FeatureSet, reference: FeatureSet | None, prepared: Prepared) -> Found:
        assert reference is not None
        if self.subset_size is not None:
            return Found({"kid": Estimate(self._in_subsets(images.features, reference.features))})
        return Found({"kid": _whole(images.features, reference.features, float(prepared["within"][0]))})

    def _in_subsets(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
        values = []
        for number in range(self.num_subsets):
            a, b = (features[self._subset(number, side, len(features))] for side, features in enumerate((x, y)))
            values.append(_within(a) + _within(b) - 2 * float(_means(a, b).mean()))
        return float(np.mean(values))

    def _subset(self, number: int, side: int, n: int) -> NDArray[np.int64]:
        """By a counter-based generator's bits, which no version of numpy changes."""
        bits = np.random.Philox(key=np.array([number, side], np.uint64)).random_raw(n)
        return np.argsort(bits, kind="stable")[: self.subset_size]


def _sums(x: NDArray[np.floating]) -> Float64:
    """Of each image the kernels with all others, summed, shape (N,)."""
    sums = np.zeros(len(x))
    for rows in blocks(len(x)):
        for columns in blocks(rows.stop):  # the kernel is symmetric: no block above the diagonal
            block = _kernel(x[rows], x[columns])
            if rows == columns:
                np.fill_diagonal(block, 0)
            else:
                sums[columns] += block.sum(axis=0)
            sums[rows] += block.sum(axis=1)
    return sums


def _within(x: NDArray[np.floating]) -> float:
    """The mean kernel of two different images."""
    return float(_sums(x).sum() / (len(x) * (len(x) - 1)))


def _means(x: NDArray[np.floating], y: NDArray[np.floating]) -> Float64:
    """The mean kernel of every x with all y, shape (N,)."""
    sums = np.zeros(len(x))
    for rows in blocks(len(x)):
        for columns in blocks(len(y)):
            sums[rows] += _kernel(x[rows], y[columns]).sum(axis=1)
    return sums / len(y)


def _kernel(a: NDArray[np.floating], b: NDArray[np.floating]) -> Float64:
    block = a.astype(np.float64) @ b.T.astype(np.float64)
    block /= a.shape[1]
    block += 1
    return np.asarray(block * block * block)


def _whole(x: NDArray[np.floating], y: NDArray[np.floating], within_y: float) -> Estimate:
    """As a U-statistic of the images with h(a, b) = k(a, b) - m(a) - m(b), m the mean kernel with the reference. The
    variance is the jackknife's: of the same without each image in turn."""
    n, m = len(x), _means(x, y)
    sums = _sums(x) - (n - 2) * m - m.sum()  # of h with all others
    total = float(sums.sum())
    without = (total - 2 * sums) / ((n - 1) * (n - 2))
    variance = (n - 1) / n * float(np.square(without - without.mean()).sum())
    return around(total / (n * (n - 1)) + within_y, float(np.sqrt(variance)))
