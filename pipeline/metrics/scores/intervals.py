"""95 % intervals of plain means, shares and medians of images.

Where every class has its share of the images by design (`strata`), how many images a class has is not chance: only what
varies within a class is. Intervals that ignore it are too wide.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrik

from pipeline.metrics.proportions import wilson, wilson_of_share
from pipeline.metrics.scores.base import Estimate
from pipeline.metrics.scores.neighbours import Float64
from pipeline.metrics.uncertainty import QUANTILE, within

Strata = NDArray[np.int64] | None  # the class of each image, shape (N,)


def around(value: float, deviation: float, least: float | None = None) -> Estimate:
    """A normal interval about a number whose standard deviation is known, cut off at the least possible value."""
    low, high = value - QUANTILE * deviation, value + QUANTILE * deviation
    return Estimate(value, low if least is None else max(low, least), high)


def of_mean(values: Float64, least: float | None = None, strata: Strata = None) -> Estimate:
    """The mean of independent values, at least two of them."""
    return around(float(values.mean()), deviation_of_mean(values, strata), least)


def deviation_of_mean(values: Float64, strata: Strata = None) -> float:
    """The standard deviation of the mean of independent values, at least two of them."""
    deviations, groups = within(values, _usable(strata))
    return float(np.sqrt(np.square(deviations).sum() / (len(values) - groups) / len(values)))


def jackknife(without: Float64, strata: Strata = None) -> float:
    """The standard deviation of a number, from what it would be without each of the images."""
    n = len(without)
    return (n - 1) * deviation_of_mean(without, strata)


def of_share(are: NDArray[np.bool_], strata: Strata = None) -> Estimate:
    """The share of those that are, by Wilson's score interval; with strata, that of as many independent images as would
    tell the share as exactly (Kish 1965, Survey Sampling, sec. 8.2: the effective number)."""
    n, share = len(are), float(are.mean())
    found = wilson(int(are.sum()), n)
    if (known := _usable(strata)) is not None and 0 < share < 1:
        found = wilson_of_share(share, n * max(share * (1 - share) / _variance_within(are, known), 1.0))
    return Estimate(found.value, found.low, found.high)


def of_median(values: Float64, strata: Strata = None) -> Estimate:
    """The median of independent values, between two of them whose ranks the binomial distribution gives; this holds
    whatever the values' distribution. With strata the ranks are those of the normal distribution, as the number below
    the median varies less. Without an interval where there are fewer than six."""
    n, ordered = len(values), np.sort(values)
    median = float(np.median(values))
    known = _usable(strata)
    if known is None:
        low, high = _coins(0.025, n) - 1, _coins(0.975, n)
    else:
        half = QUANTILE * float(np.sqrt(n * min(_variance_within(values < median, known), 0.25)))
        low, high = int(np.floor(n / 2 - half)) - 1, int(np.ceil(n / 2 + half))
    if low < 0 or high >= n or n < 6:
        return Estimate(median)
    return Estimate(median, float(ordered[low]), float(ordered[high]))


def _usable(strata: Strata) -> Strata:
    """Classes of a single image tell nothing of what varies within them."""
    return strata if strata is not None and len(strata) >= 2 * len(np.unique(strata)) else None


def _variance_within(are: NDArray[np.bool_], strata: NDArray[np.int64]) -> float:
    """p (1 - p) of each class, averaged over the images; as if each class had one more image of either kind, for a
    class of which all are, or none, is not known to be so."""
    _, which = np.unique(strata, return_inverse=True)
    counts = np.bincount(which)
    shares = (np.bincount(which, are) + 1) / (counts + 2)
    return float((counts * shares * (1 - shares)).sum() / len(are))


def _coins(q: float, n: int) -> int:
    """The quantile of the heads of n tosses. `scipy.stats` has it too, and takes as long to import as torch."""
    above = int(np.ceil(bdtrik(q, n, 0.5)))
    return above - 1 if above and bdtr(above - 1, n, 0.5) >= q else above
