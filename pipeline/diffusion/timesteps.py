"""Time grids: the noise levels sigma_0 > sigma_1 > ... > sigma_{N-1} > sigma_N = 0 that a sampler visits.

A grid is given in sigma, whatever schedule the sampler runs on; t_i = sigma_inv(sigma_i). So every grid goes with every
schedule (Karras et al. 2022, Table 1, "Time steps"). Grids are float64, narrowed to the range that the network was made
for, and their levels rounded to the network's own where it has discrete ones.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import ClassVar, Literal, Protocol

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


class TimestepsShape(Protocol):
    @property
    def num_steps(self) -> int: ...

    def levels(self, sigma_min: float, sigma_max: float) -> Tensor:
        """The N levels before the final zero, decreasing, float64 of shape (N,), within the given limits."""
        ...


def grid(timesteps: "Timesteps", network: NoiseLevels) -> Tensor:
    """sigma_0 ... sigma_N for a network, float64 of shape (N + 1,), the last one 0.

    Raises:
        ValueError: a level repeats or increases (after rounding to the network's levels), so a step would go nowhere.
    """
    levels = network.round_sigma(timesteps.levels(network.sigma_min, network.sigma_max))
    if not bool(torch.isfinite(levels).all() & (levels > 0).all()):
        raise ValueError(f"num_steps: noise levels must be positive and finite (got {levels.tolist()})")
    if not bool((levels.diff() < 0).all()):
        repeated = int((levels.diff() >= 0).nonzero()[0])
        raise ValueError(
            f"num_steps: {timesteps.num_steps} steps of the {timesteps.kind} grid are too many for this network: "
            f"step {repeated} does not lower sigma = {levels[repeated].item():.6g}; use fewer steps"
        )
    return torch.cat([levels, levels.new_zeros(1)])


def _ramp(num_steps: int) -> Tensor:
    """i / (N - 1) for i = 0 ... N - 1; a single step starts at the top."""
    return torch.arange(num_steps, dtype=torch.float64) / max(num_steps - 1, 1)


def _narrow(sigma_min: float, sigma_max: float, low: float, high: float) -> tuple[float, float]:
    narrowed = max(sigma_min, low), min(sigma_max, high)
    if not narrowed[0] < narrowed[1]:
        raise ValueError(
            f"sigma_min: the grid's range [{sigma_min:.6g}, {sigma_max:.6g}] lies outside the network's "
            f"[{low:.6g}, {high:.6g}]"
        )
    return narrowed


def _check(num_steps: int, sigma_min: float, sigma_max: float) -> None:
    if num_steps < 1:
        raise ValueError(f"num_steps: must be at least 1 (got {num_steps})")
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(f"sigma_min: must be positive and less than sigma_max (got {sigma_min} and {sigma_max})")


@dataclass(frozen=True)
class EDMSteps:
    """sigma_i = (sigma_max^(1/rho) + i/(N-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho.

    Karras et al. 2022, Eq. 5.
    """

    kind: Literal["edm"] = "edm"
    num_steps: int = 18
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check(self.num_steps, self.sigma_min, self.sigma_max)
        if not self.rho > 0:
            raise ValueError(f"rho: must be positive (got {self.rho})")

    def levels(self, sigma_min: float, sigma_max: float) -> Tensor:
        low, high = _narrow(self.sigma_min, self.sigma_max, sigma_min, sigma_max)
        top, bottom = high ** (1 / self.rho), low ** (1 / self.rho)
        return torch.pow(top + _ramp(self.num_steps) * (bottom - top), self.rho)


@dataclass(frozen=True)
class VPSteps:
    """t_i = 1 + i/(N-1) (epsilon_s - 1) on the VP schedule that spans sigma_min to sigma_max.

    The default range is that of beta_d = 19.9, beta_min = 0.1 (Table 1, column VP).
    """

    kind: Literal["vp"] = "vp"
    num_steps: int = 18
    sigma_min: float = math.sqrt(math.expm1(0.5 * 19.9 * 1e-3**2 + 0.1 * 1e-3))  # sigma(1e-3)
    sigma_max: float = math.sqrt(math.expm1(0.5 * 19.9 + 0.1))  # sigma(1)
    epsilon_s: float = 1e-3
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check(self.num_steps, self.sigma_min, self.sigma_max)
        if not 0 < self.epsilon_s < 1:
            raise ValueError(f"epsilon_s: must lie between 0 and 1 (got {self.epsilon_s})")

    def levels(self, sigma_min: float, sigma_max: float) -> Tensor:
        low, high = _narrow(self.sigma_min, self.sigma_max, sigma_min, sigma_max)
        beta_d, beta_min = _vp_betas(low, high, self.epsilon_s)
        t = 1 + _ramp(self.num_steps) * (self.epsilon_s - 1)
        return (0.5 * beta_d * t**2 + beta_min * t).expm1().sqrt()


def _vp_betas(sigma_min: float, sigma_max: float, epsilon_s: float) -> tuple[float, float]:
    """beta_d and beta_min for which sigma(epsilon_s) = sigma_min and sigma(1) = sigma_max on the VP schedule.

    beta_min may come out negative (as for 0.002 to 80): sigma(t) still rises all the way from epsilon_s to 1.
    """
    low, high = math.log1p(sigma_min**2), math.log1p(sigma_max**2)
    beta_d = 2 * (low / epsilon_s - high) / (epsilon_s - 1)
    beta_min = high - 0.5 * beta_d
    if not min(beta_d * epsilon_s, beta_d) + beta_min > 0:
        raise ValueError(
            f"sigma_min: the vp grid cannot fall from {sigma_max:.6g} to {sigma_min:.6g} with "
            f"epsilon_s = {epsilon_s:g}; lower sigma_min or raise epsilon_s"
        )
    return beta_d, beta_min


@dataclass(frozen=True)
class VESteps:
    """sigma_i^2 = sigma_max^2 (sigma_min^2 / sigma_max^2)^(i/(N-1)): geometric (Table 1, column VE)."""

    kind: Literal["ve"] = "ve"
    num_steps: int = 18
    sigma_min: float = 0.02
    sigma_max: float = 100.0
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check(self.num_steps, self.sigma_min, self.sigma_max)

    def levels(self, sigma_min: float, sigma_max: float) -> Tensor:
        low, high = _narrow(self.sigma_min, self.sigma_max, sigma_min, sigma_max)
        return high * torch.pow(low / high, _ramp(self.num_steps))


def check_iddpm(M: int, C_1: float, C_2: float) -> None:
    """Raises ValueError where the constants give no table of decreasing levels."""
    if M < 2:
        raise ValueError(f"M: must be at least 2 (got {M})")
    if not 0 < C_1 < 1:
        raise ValueError(f"C_1: must lie between 0 and 1 (got {C_1})")
    if not 0 <= C_2 < math.inf:
        raise ValueError(f"C_2: must be 0 or more (got {C_2})")


@cache
def iddpm_levels(M: int, C_1: float, C_2: float) -> Tensor:
    """u_0 > u_1 > ... > u_M = 0, the discrete noise levels of iDDPM, float64 of shape (M + 1,) (Table 1)."""
    abar = [math.sin(0.5 * math.pi * j / (M * (C_2 + 1))) ** 2 for j in range(M + 1)]
    u = [0.0]
    for j in range(M, 0, -1):
        u.append(math.sqrt((u[-1] ** 2 + 1) / max(abar[j - 1] / abar[j], C_1) - 1))
    return torch.tensor(u[::-1], dtype=torch.float64)


@dataclass(frozen=True)
class IDDPMSteps:
    """Levels of iDDPM's table u within [sigma_min, sigma_max], evenly spaced in their index (Table 1, column iDDPM).

    With sigma_max = 81 the table starts at j_0 = 8, as in the paper.
    """

    kind: Literal["iddpm"] = "iddpm"
    num_steps: int = 18
    sigma_min: float = 0.002
    sigma_max: float = 81.0
    M: int = 1000
    C_1: float = 0.001
    C_2: float = 0.008
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check(self.num_steps, self.sigma_min, self.sigma_max)
        check_iddpm(self.M, self.C_1, self.C_2)

    def levels(self, sigma_min: float, sigma_max: float) -> Tensor:
        low, high = _narrow(self.sigma_min, self.sigma_max, sigma_min, sigma_max)
        u = iddpm_levels(self.M, self.C_1, self.C_2)
        u = u[(u >= low) & (u <= high)]
        if len(u) < self.num_steps:
            raise ValueError(
                f"num_steps: the iddpm grid has only {len(u)} levels between {low:.6g} and {high:.6g} "
                f"(got {self.num_steps})"
            )
        return u[(_ramp(self.num_steps) * (len(u) - 1) + 0.5).floor().long()]


@dataclass(frozen=True)
class ExplicitSteps:
    """A list of noise levels, largest first, without the final zero."""

    kind: Literal["explicit"] = "explicit"
    sigmas: tuple[float, ...] = (80.0, 2.0)
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not self.sigmas:
            raise ValueError("sigmas: must name at least one noise level (got none)")
        ends = (*self.sigmas, 0.0)
        if any(not math.inf > a > b for a, b in pairwise(ends)):
            raise ValueError(f"sigmas: must be positive, finite and decreasing (got {list(self.sigmas)})")

    @property
    def num_steps(self) -> int:
        return len(self.sigmas)

    def levels(self, sigma_min: float, sigma_max: float) -> Tensor:
        if self.sigmas[0] > sigma_max or self.sigmas[-1] < sigma_min:
            raise ValueError(
                f"sigmas: {self.sigmas[0]:.6g} ... {self.sigmas[-1]:.6g} lie outside what the network supports, "
                f"[{sigma_min:.6g}, {sigma_max:.6g}]"
            )
        return torch.tensor(self.sigmas, dtype=torch.float64)


Timesteps = EDMSteps | VPSteps | VESteps | IDDPMSteps | ExplicitSteps
