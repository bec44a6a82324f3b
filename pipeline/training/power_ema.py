"""Averages of the weights with a power-function profile, and how to put others together from those that were stored.

An average whose weight of the past moment tau is (gamma + 1) tau^gamma / t^(gamma + 1), 0 < tau <= t, keeps its shape
as the training goes on: its width is a share of the training so far. That share, the profile's standard deviation in
units of t, names it. As all such profiles are known in closed form, one that was never tracked is the sum of stored
ones that comes nearest to it.

Source: Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models", arXiv 2312.02696, section 3
and appendix C.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LARGEST_STD = math.sqrt(1 / 12)  # of gamma = 0, the plain mean of all moments
PREFIX = "power-"  # of the names of tracked weights: power-0.05


def check_std(std: float) -> None:
    """Raises:
    ValueError: the std is out of range, or has more digits than a name of weights shows.
    """
    if not 0 < std <= LARGEST_STD:
        raise ValueError(f"must be above 0 and at most {LARGEST_STD:.3f} (got {std:g})")
    if float(f"{std:g}") != std:
        raise ValueError(f"must have at most six digits (got {std})")


def power_name(std: float) -> str:
    """The name of the weights that are tracked with a profile of this std."""
    return f"{PREFIX}{std:g}"


def gamma_of(std: float) -> float:
    """The exponent of the profile of relative standard deviation `std`.

    Its variance is (gamma + 1) / ((gamma + 2)^2 (gamma + 3)), so gamma is the largest root of
    gamma^3 + 7 gamma^2 + (16 - std^-2) gamma + (12 - std^-2).
    """
    precision = std**-2
    return float(np.roots([1.0, 7.0, 16.0 - precision, 12.0 - precision]).real.max())


def power_decay(batch_size: int, images_seen: int, gamma: float) -> float:
    """beta of one update, (1 - dt/t)^(gamma + 1), with dt the batch and t the images seen after it.

    Args:
        images_seen: before this step; at the first nothing of the old average is left.
    """
    return float((images_seen / (images_seen + batch_size)) ** (gamma + 1))


class Profile(NamedTuple):
    """A power-function profile: its exponent, and the moment t > 0 at which it ends, in any unit."""

    gamma: float
    time: float


class Combination(NamedTuple):
    """Profiles added up to come near another.

    Args:
        factors: of each profile; their sum is 1.
        error: the L2 norm of what the sum is off, over that of the profile wanted.
    """

    factors: tuple[float, ...]
    error: float


def nearest_combination(profiles: Sequence[Profile], target: Profile) -> Combination:
    """The combination of profiles that is nearest to the target in L2, its factors scaled to the sum 1.

    The normal equations A x = B are solved in float64 with profiles of norm 1, which keeps them well-conditioned
    for snapshots from very different moments.
    """
    gamma, time = (np.array(values, dtype=np.float64) for values in zip(*profiles, strict=True))
    products = _inner(gamma[:, None], time[:, None], gamma, time)
    wanted = _inner(gamma, time, np.array(target.gamma), np.array(target.time))
    length = np.sqrt(np.diag(products))
    unit = np.linalg.lstsq(products / np.outer(length, length), wanted / length, rcond=1e-12)[0]
    factors = unit / length
    factors = factors / factors.sum()
    whole = (target.gamma + 1) ** 2 / ((2 * target.gamma + 1) * target.time)  # the target's own squared norm
    squared = 1 + (factors @ products @ factors - 2 * factors @ wanted) / whole
    return Combination(tuple(factors.tolist()), math.sqrt(max(float(squared), 0.0)))


def _inner(gamma_a: Floats, time_a: Floats, gamma_b: Floats, time_b: Floats) -> Floats:
    """The integral of the product of two profiles, element by element. Beyond the end of the earlier one it is 0."""
    exponent = np.where(time_a < time_b, gamma_b, -gamma_a)
    overlap = (time_a / time_b) ** exponent / np.maximum(time_a, time_b)
    product: Floats = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * overlap
    return product
