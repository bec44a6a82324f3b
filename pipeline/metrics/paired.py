"""Two settings on the same seeds: is one better, how sure is that, and how many images would tell.

The same seed is the same noise and the same label, so two settings make images that resemble each other, and what they
share cancels in the difference. All that is needed are the influences of the images (`pipeline.metrics.uncertainty`):
those of the difference are the differences.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from pipeline.metrics.uncertainty import Interval, interval, within

POWER = 0.8


@dataclass(frozen=True)
class Comparison:
    """One setting less another one, of the mean distance of n images.

    Args:
        difference: with its 95 % interval; below zero, the first one is better.
        p_better: how sure it is that the first one is the better one: the one-sided confidence of the normal
            approximation, Phi(-difference / error). With a flat prior it is the probability. Swapped, it is one less.
        error: the standard error of the difference.
        images: of each setting, on the same seeds, that tell a difference as large as this one at a level of 5 % in 8
            of 10 repetitions; infinite where there is no difference.
        correlation: of the two settings' influences: 0 where common seeds do not help, 1 where they cancel all noise.
    """

    difference: Interval
    p_better: float
    error: float
    images: float
    correlation: float


def compare(
    first: float, second: float, psi_first: NDArray[np.floating], psi_second: NDArray[np.floating],
    strata: NDArray[np.int64] | None = None,
) -> Comparison:  # fmt: skip
    """Compares two distances.

    Args:
        first: the distance of one setting.
        second: of the other, to the same reference, of the images of the same seeds.
        psi_first: influences of the first setting's images, shape (n,), in the order of the seeds.
        psi_second: of the second one's.
        strata: the class of each image, shape (n,), where every class has its share by design.

    Raises:
        ValueError: the influences are not of equally many images, or of fewer than three.
    """
    if psi_first.shape != psi_second.shape:
        raise ValueError(f"comparison: of {len(psi_first)} and {len(psi_second)} images there is none")
    psi = np.asarray(psi_first, np.float64) - np.asarray(psi_second, np.float64)
    found = interval(first - second, psi, strata)
    chance, groups = within(psi, strata)
    error = float(np.sqrt(np.square(chance).sum() / (len(psi) - groups) / len(psi)))
    return Comparison(
        difference=found,
        p_better=_confidence(-found.value, error),
        error=error,
        images=images_to_tell(found.value, error * math.sqrt(len(psi))),
        correlation=_correlation(within(psi_first, strata)[0], within(psi_second, strata)[0]),
    )


def images_to_tell(difference: float, deviation: float, level: float = 0.05, power: float = POWER) -> float:
    """How many images of each setting tell a difference, on the same seeds.

    Args:
        difference: the true one, of either sign.
        deviation: of the difference of two influences.
        level: how often a difference may be told where there is none.
        power: how often it is told where it is there.

    Raises:
        ValueError: a level or a power that is none.
    """
    if not (0 < level < 1 and 0 < power < 1):
        raise ValueError(f"level and power: must be between 0 and 1 (got {level}, {power})")
    if difference == 0:
        return math.inf
    quantiles = float(ndtri(1 - level / 2) + ndtri(power))
    return float(max(3, math.ceil((quantiles * deviation / difference) ** 2)))


@dataclass(frozen=True)
class Spread:
    """The same number on disjoint ranges of seeds.

    Args:
        values: one a range.
        mean: the estimate.
        deviation: from range to range, with one less than their number; NaN for a single one.
        least: the smallest one. EDM reports the least of three; it is no estimate: it falls with their number.
    """

    values: tuple[float, ...]
    mean: float
    deviation: float
    least: float

    def __str__(self) -> str:
        known = "" if math.isnan(self.deviation) else f" ± {self.deviation:.4g}"
        return f"{self.mean:.4g}{known} over {len(self.values)} ranges of seeds (the least of them {self.least:.4g})"


def spread(values: Sequence[float]) -> Spread:
    """Raises:
    ValueError: there is no value.
    """
    if not values:
        raise ValueError("spread: of no values there is none")
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return Spread(tuple(values), float(np.mean(values)), deviation, float(min(values)))


def _confidence(better_by: float, error: float) -> float:
    """Phi(better_by / error); a half where nothing is known."""
    if error == 0.0:
        return 0.5 if better_by == 0 else float(better_by > 0)
    return float(ndtr(better_by / error))


def _correlation(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    deviations = float(np.std(one)) * float(np.std(other))
    covariance = float(np.mean((one - one.mean()) * (other - other.mean())))
    return covariance / deviations if deviations > 0 else 0.0
