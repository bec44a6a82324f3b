"""How far a Frechet distance would differ with other images: an interval, by the influence of each image.

The influence of image i is what the distance loses without it, times n - 1: Tukey's pseudo-value of the jackknife, here
in closed form. Without image i the mean is mu - c_i / (n - 1), the covariance ((n-1) A - n/(n-1) c_i c_i^T) / (n - 2),
and the rank-one change takes from the trace of the root (`pipeline.metrics.leverage`)

    Tr M^(1/2) - Tr (M - u y_i y_i^T)^(1/2) = -1/(2 pi) int_0^inf x^(-1/2) ln(1 - (n-1) u h_i(x)) dx.

The variance of the distance is that of the influences, by n. To first order in h_i they are the delta method's (Rippl,
Munk and Sturm 2016, arXiv 1507.04090). That is not enough where n is a few times d and images differ in scale: an image
far out has shaped the covariance that it is measured with.

What the interval is of: the mean distance of n such images, whose bias is in it. The limit of infinitely many images is
another number (`pipeline.metrics.limit`). The reference counts as it is, the network too. Where both distributions are
equal, the interval is wider than it need be, for the jackknife counts what is of second order twice.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.leverage import STEP, Expansion, Leverages
from pipeline.metrics.moments import Float64, Gaussian

LEVEL = 0.95
QUANTILE = 1.959963984540054  # of the normal distribution, both sides
_MOST_SKEW = 0.4  # skewness / sqrt(n), beyond which an expansion in it means nothing


@dataclass(frozen=True)
class Interval:
    """A number, and where it may be: the estimand is between low and high in 95 of 100 repetitions."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    def at_least(self, bound: float) -> "Interval":
        """The interval without what the estimand cannot be; the value stays."""
        return Interval(self.value, max(self.low, bound), max(self.high, bound))


@dataclass(frozen=True, eq=False)
class Influence:
    """How the features of one image move the distance of all."""

    expansion: Expansion

    @classmethod
    def on(cls, images: Gaussian, reference: Gaussian) -> "Influence":
        """The influence on the distance of `images` to `reference`, at the images that were measured.

        Raises:
            ValueError: as `Expansion.on`.
        """
        return cls(Expansion.on(images, reference))

    def of(self, features: NDArray[np.floating]) -> Float64:
        """(n - 1) (D - D without the image) for each, shape (N,), of features of shape (N, d)."""
        return influences(self.expansion, self.expansion.of(features))


def influences(expansion: Expansion, leverages: Leverages) -> Float64:
    """Of the images whose leverages they are, shape (N,)."""
    n = expansion.count
    share = n / (n - 1)
    mean = (2 * leverages.shift - leverages.square / (n - 1)) / (n - 1)
    trace = (share * leverages.square - float(np.trace(expansion.images.covariance))) / (n - 2)
    without = expansion.trace_of_root - _root_lost(expansion, leverages, share)
    root = expansion.trace_of_root - np.sqrt((n - 1) / (n - 2)) * without
    psi: Float64 = (n - 1) * (mean + trace - 2 * root)
    return psi


def _root_lost(expansion: Expansion, leverages: Leverages, share: float) -> Float64:
    """What the trace of the root loses; the first order is known without a quadrature."""
    h = np.minimum(share * leverages.at, 1 - 1e-12)
    higher = (-np.log1p(-h) - h) @ (np.sqrt(expansion.ridges) * STEP)
    return np.asarray(share * leverages.root / 2 + higher / (2 * np.pi))


def interval(value: float, psi: Float64, strata: NDArray[np.int64] | None = None) -> Interval:
    """The 95 % interval of a number whose images have these influences.

    It is that of Student's t with the quantiles of its second-order Cornish-Fisher expansion in the skewness and
    kurtosis of the influences (Hall 1992, The Bootstrap and Edgeworth Expansion, sec. 2.4-2.6), for squares are skew:
    it reaches farther up than down. Of two settings measured on the same seeds, the difference of the influences gives
    the interval of the difference.

    Args:
        value: the number.
        psi: the influences, shape (n,).
        strata: the class of each image, shape (n,), where the images were made so that every class has its share. Then
            only what varies within a class is chance.

    Raises:
        ValueError: there are fewer than three influences, or not three more than classes.
    """
    n, psi, groups = len(psi), *within(psi, strata)
    if n < groups + 2:
        raise ValueError(f"interval: needs at least {groups + 2} images (got {n})")
    deviation = float(np.sqrt(np.square(psi).sum() / (n - groups)))
    error = deviation / np.sqrt(n)
    if deviation == 0.0:
        return Interval(value, value, value)
    shift, reach = _quantile(*_shape(psi / deviation), n)
    return Interval(value, float(value - error * (reach - shift)), float(value + error * (reach + shift)))


def within(psi: NDArray[np.floating], strata: NDArray[np.int64] | None) -> tuple[Float64, int]:
    """The influences less the mean of their class, and how many classes there are."""
    psi = np.asarray(psi, np.float64)
    if strata is None:
        return np.asarray(psi - psi.mean()), 1
    groups, which = np.unique(strata, return_inverse=True)
    means = np.bincount(which, psi) / np.bincount(which)
    return np.asarray(psi - means[which]), len(groups)


def half_width(psi: Float64) -> float:
    """Half the length of that interval."""
    return interval(0.0, psi).half_width


def _shape(standardized: Float64) -> tuple[float, float]:
    """Skewness and excess kurtosis."""
    return float(np.mean(standardized**3)), float(np.mean(standardized**4)) - 3


def _quantile(skew: float, kurtosis: float, n: int) -> tuple[float, float]:
    """By how much the upper and the lower quantile of Student's t are shifted alike, and how far they reach."""
    bound = _MOST_SKEW * np.sqrt(n)
    skew = float(np.clip(skew, -bound, bound))
    kurtosis = min(kurtosis, bound**2)
    z = QUANTILE
    first = skew * (2 * z**2 + 1) / 6
    slope = skew * 4 * z / 6
    second = z * (kurtosis * (z**2 - 3) / 12 - skew**2 * (z**4 + 2 * z**2 - 3) / 18 - (z**2 + 1) / 4)
    reach = z + (first * slope - z * first**2 / 2 - second) / n
    return first / float(np.sqrt(n)), max(reach, z)
