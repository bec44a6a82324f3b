"""Whether one number ranks settings as another does: Kendall's tau-b and Spearman's rho, with an interval.

The interval is of the settings: they are drawn anew with replacement (percentile bootstrap, Efron and Tibshirani 1993),
as if they were a sample of the settings that might have been asked. Ties count as tau-b and mean ranks count them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.metrics.moments import Float64

RESAMPLES = 2000
FEWEST = 4  # settings, below which there is no interval worth the name


@dataclass(frozen=True)
class RankCorrelation:
    """Of two numbers over settings.

    Args:
        kendall: tau-b, from -1 to 1; nan where one of the two never varies.
        kendall_interval: its 95 % interval; None of fewer than four settings, or where one of the two never varies.
        spearman: rho.
        spearman_interval: as above.
        count: of settings.
    """

    kendall: float
    kendall_interval: tuple[float, float] | None
    spearman: float
    spearman_interval: tuple[float, float] | None
    count: int

    def __str__(self) -> str:
        kendall = f"Kendall's tau {self.kendall:.2f}{_told(self.kendall_interval)}"
        return f"{kendall}, Spearman's rho {self.spearman:.2f}{_told(self.spearman_interval)}, {self.count} settings"


def rank_correlation(
    one: Sequence[float], two: Sequence[float], seed: int = 0, resamples: int = RESAMPLES
) -> RankCorrelation:
    """The rank correlation of two numbers of the same settings, in the same order.

    Args:
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Raises:
        ValueError: there are not as many of the one as of the other.
    """
    pairs = np.array(list(zip(one, two, strict=True)), np.float64).reshape(-1, 2)
    signs = np.sign(pairs.T[:, :, None] - pairs.T[:, None, :])
    kendall, spearman = _both(signs)
    if len(pairs) < FEWEST or np.isnan(kendall):
        return RankCorrelation(kendall, None, spearman, None, len(pairs))
    generator = np.random.default_rng(seed)
    places = (generator.integers(0, len(pairs), len(pairs)) for _ in range(resamples))
    drawn = [_both(signs[:, place[:, None], place]) for place in places]
    low, high = np.nanquantile(np.array(drawn), [0.025, 0.975], axis=0)
    intervals = [(float(ends[0]), float(ends[1])) for ends in zip(low, high, strict=True)]
    return RankCorrelation(kendall, intervals[0], spearman, intervals[1], len(pairs))


def _both(signs: Float64) -> tuple[float, float]:
    """(tau-b, rho) by the signs of all differences, shape (2, N, N), and by mean ranks, which are their sums; nan where
    one of the two never varies."""
    return _correlation(signs[0].ravel(), signs[1].ravel()), _correlation(*signs.sum(axis=2))


def _correlation(one: Float64, two: Float64) -> float:
    """Of two numbers whose means are zero, as sums of antisymmetric signs are."""
    scale = float(np.sqrt((one @ one) * (two @ two)))
    return float(one @ two) / scale if scale > 0 else float("nan")


def _told(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" (95 %: {interval[0]:.2f} to {interval[1]:.2f})"
