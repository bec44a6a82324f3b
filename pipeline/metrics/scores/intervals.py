"""95 % intervals of plain means, shares and medians of independent images."""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import binom

from pipeline.metrics.scores.base import Estimate
from pipeline.metrics.scores.neighbours import Float64

QUANTILE = float(ndtri(0.975))


def around(value: float, deviation: float, least: float | None = None) -> Estimate:
    """A normal interval about a number whose standard deviation is known, cut off at the least possible value."""
    low, high = value - QUANTILE * deviation, value + QUANTILE * deviation
    return Estimate(value, low if least is None else max(low, least), high)


def of_mean(values: Float64, least: float | None = None) -> Estimate:
    """The mean of independent values, at least two of them."""
    return around(float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))), least)


def of_share(are: NDArray[np.bool_]) -> Estimate:
    """The share of those that are, by Wilson's score interval (Wilson 1927): it holds near 0 and 1 too."""
    n, share, z2 = len(are), float(are.mean()), QUANTILE**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = QUANTILE / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n**2))
    return Estimate(share, max(float(centre - half), 0.0), min(float(centre + half), 1.0))


def of_median(values: Float64) -> Estimate:
    """The median of independent values, between two of them whose ranks the binomial distribution gives; this holds
    whatever the values' distribution. Without an interval where they are fewer than six."""
    n, ordered = len(values), np.sort(values)
    low, high = int(binom.ppf(0.025, n, 0.5)) - 1, int(binom.ppf(0.975, n, 0.5))
    median = float(np.median(values))
    if low < 0 or high >= n or n < 6:
        return Estimate(median)
    return Estimate(median, float(ordered[low]), float(ordered[high]))
