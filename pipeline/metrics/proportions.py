"""Intervals of an accuracy, and of the difference of two on the same seeds."""

import math

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.uncertainty import QUANTILE, Interval


def wilson(successes: int, count: int) -> Interval:
    """A share and its 95 % interval (Wilson 1927): it holds near 0 and 1 too, and never leaves them.

    Raises:
        ValueError: that is no share.
    """
    if count < 1 or not 0 <= successes <= count:
        raise ValueError(f"share: {successes} of {count} is none")
    return wilson_of_share(successes / count, count)


def wilson_of_share(share: float, count: float) -> Interval:
    """The same of a share that is known as exactly as that of so many independent images."""
    center = (share + QUANTILE**2 / (2 * count)) / (1 + QUANTILE**2 / count)
    half = QUANTILE / (1 + QUANTILE**2 / count) * math.sqrt(share * (1 - share) / count + QUANTILE**2 / (4 * count**2))
    return Interval(share, min(max(center - half, 0.0), share), max(min(center + half, 1.0), share))


def paired_shares(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Interval:
    """The difference of two shares on the same images' seeds, and its 95 % interval.

    What both have right, or both wrong, tells nothing, as in McNemar's test. The interval is Bonett and Price's (2012,
    Adjusted Wald confidence interval for a difference of binomial proportions based on paired data): Wald's, after one
    image more for each of the two ways to differ.

    Args:
        first: whether each image of the first setting is recognised, shape (n,), in the order of the seeds.
        second: of the second one.

    Raises:
        ValueError: they are not of equally many images, or of none.
    """
    if first.shape != second.shape or len(first) == 0:
        raise ValueError(f"shares: of {len(first)} and {len(second)} images there is no difference")
    n = len(first)
    gains, losses = int((first & ~second).sum()), int((second & ~first).sum())
    up, down = (gains + 1) / (n + 2), (losses + 1) / (n + 2)
    half = QUANTILE * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return Interval((gains - losses) / n, max(up - down - half, -1.0), min(up - down + half, 1.0))


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """How likely so unequal a split of the images in which two settings differ is, were both equally good: the exact
    two-sided test (McNemar 1947).

    Raises:
        ValueError: they are not of equally many images.
    """
    from scipy.stats import binomtest

    if first.shape != second.shape:
        raise ValueError(f"shares: of {len(first)} and {len(second)} images there is no difference")
    gains, losses = int((first & ~second).sum()), int((second & ~first).sum())
    if gains + losses == 0:
        return 1.0
    return float(binomtest(gains, gains + losses, 0.5).pvalue)
