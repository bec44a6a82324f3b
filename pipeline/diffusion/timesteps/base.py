"""What all time grids share: the range that a network leaves them, and the grid of a network."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoiseLevels:
    """What a network can take: a range of sigma, and its own levels where they are discrete.

    Args:
        sigma_min: the smallest level it was made for, 0 if there is no limit.
        sigma_max: the largest one, infinity if there is no limit.
        round_sigma: the nearest level the network knows; the identity for continuous ones.
    """

    sigma_min: float = 0.0
    sigma_max: float = math.inf
    round_sigma: Callable[[Tensor], Tensor] = lambda sigma: sigma

    def common(self, guide: "NoiseLevels") -> "NoiseLevels":
        """What this network and its guide can both take: levels of this one, within the range of either.

        Raises:
            ValueError: there is no such range.
        """
        low = self._level(max(self.sigma_min, guide.sigma_min), self.sigma_max)
        high = self._level(min(self.sigma_max, guide.sigma_max), self.sigma_min)
        if not low < high:
            raise ValueError(
                f"guide: the network takes noise levels in [{self.sigma_min:.6g}, {self.sigma_max:.6g}], its guide in "
                f"[{guide.sigma_min:.6g}, {guide.sigma_max:.6g}]: they have no range in common"
            )
        return NoiseLevels(low, high, self.round_sigma)

    def _level(self, limit: float, end: float) -> float:
        """The first level at or beyond a limit, towards an end of the range, by bisection: all we have is rounding."""

        def rounded(sigma: float) -> float:
            return float(self.round_sigma(torch.tensor([sigma], dtype=torch.float64)))

        def is_short(sigma: float) -> bool:
            return rounded(sigma) < limit if end > limit else rounded(sigma) > limit

        near, far = limit, end if is_short(limit) else limit
        while near < (middle := (near + far) / 2) < far or far < middle < near:
            near, far = (middle, far) if is_short(middle) else (near, middle)
        return rounded(far)


class TimestepsShape(Protocol):
    @property
    def kind(self) -> str: ...

    def levels(self, sigma_min: float, sigma_max: float) -> Tensor:
        """The N levels before the final zero, decreasing, float64 of shape (N,), within the given limits. All but the
        adaptive grid have N as `num_steps`."""
        ...


def grid(timesteps: TimestepsShape, network: NoiseLevels) -> Tensor:
    """sigma_0 ... sigma_N for a network, float64 of shape (N + 1,), the last one 0.

    Of the adaptive grid the levels that are known ahead: where it begins, sigma_min and 0.

    Raises:
        ValueError: a level repeats or increases (after rounding to the network's levels), so a step would go nowhere.
    """
    levels = network.round_sigma(timesteps.levels(network.sigma_min, network.sigma_max))
    if not bool(torch.isfinite(levels).all() & (levels > 0).all()):
        raise ValueError(f"num_steps: noise levels must be positive and finite (got {levels.tolist()})")
    if not bool((levels.diff() < 0).all()):
        repeated = int((levels.diff() >= 0).nonzero()[0])
        raise ValueError(
            f"num_steps: {len(levels)} steps of the {timesteps.kind} grid are too many for this network: "
            f"step {repeated} does not lower sigma = {levels[repeated].item():.6g}; use fewer steps"
        )
    return torch.cat([levels, levels.new_zeros(1)])


def ramp(num_steps: int) -> Tensor:
    """i / (N - 1) for i = 0 ... N - 1; a single step starts at the top."""
    return torch.arange(num_steps, dtype=torch.float64) / max(num_steps - 1, 1)


def narrow(sigma_min: float, sigma_max: float, low: float, high: float) -> tuple[float, float]:
    """A grid's range within a network's.

    Raises:
        ValueError: they have nothing in common.
    """
    narrowed = max(sigma_min, low), min(sigma_max, high)
    if not narrowed[0] < narrowed[1]:
        raise ValueError(
            f"sigma_min: the grid's range [{sigma_min:.6g}, {sigma_max:.6g}] lies outside the network's "
            f"[{low:.6g}, {high:.6g}]"
        )
    return narrowed


def check(num_steps: int, sigma_min: float, sigma_max: float, key: str = "num_steps") -> None:
    """Raises ValueError where there is no step, or no range."""
    if num_steps < 1:
        raise ValueError(f"{key}: must be at least 1 (got {num_steps})")
    check_range(sigma_min, sigma_max)


def check_range(sigma_min: float, sigma_max: float) -> None:
    """Raises ValueError where these are no range of noise levels."""
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(f"sigma_min: must be positive and less than sigma_max (got {sigma_min} and {sigma_max})")
