"""Time grids: the noise levels sigma_0 > sigma_1 > ... > sigma_{N-1} > sigma_N = 0 that a sampler visits.

A grid is given in sigma, whatever schedule the sampler runs on; t_i = sigma_inv(sigma_i). So every grid goes with every
schedule (Karras et al. 2022, Table 1, "Time steps"). Grids are float64, narrowed to the range that the network was made
for, and their levels rounded to the network's own where it has discrete ones.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
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
    def levels(self, sigma_min: float, sigma_max: float) -> Tensor:
        """The N levels before the final zero, decreasing, float64 of shape (N,), within the given limits. All but the
        adaptive grid have N as `num_steps`."""
        ...


def grid(timesteps: "Timesteps", network: NoiseLevels) -> Tensor:
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


def _check(num_steps: int, sigma_min: float, sigma_max: float, key: str = "num_steps") -> None:
    if num_steps < 1:
        raise ValueError(f"{key}: must be at least 1 (got {num_steps})")
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
    if not 2 <= M <= 100_000:
        raise ValueError(f"M: must be at least 2 and at most 100,000 (got {M})")
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


def _check_sigmas(sigmas: tuple[float, ...]) -> None:
    if not sigmas:
        raise ValueError("sigmas: must name at least one noise level (got none)")
    if any(not math.inf > a > b for a, b in pairwise((*sigmas, 0.0))):
        raise ValueError(f"sigmas: must be positive, finite and decreasing (got {list(sigmas)})")


def _listed(sigmas: tuple[float, ...], sigma_min: float, sigma_max: float) -> Tensor:
    if sigmas[0] > sigma_max or sigmas[-1] < sigma_min:
        raise ValueError(
            f"sigmas: {sigmas[0]:.6g} ... {sigmas[-1]:.6g} lie outside what the network supports, "
            f"[{sigma_min:.6g}, {sigma_max:.6g}]"
        )
    return torch.tensor(sigmas, dtype=torch.float64)


@dataclass(frozen=True)
class ExplicitSteps:
    """A list of noise levels, largest first, without the final zero."""

    kind: Literal["explicit"] = "explicit"
    sigmas: tuple[float, ...] = (80.0, 2.0)
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check_sigmas(self.sigmas)

    @property
    def num_steps(self) -> int:
        return len(self.sigmas)

    def levels(self, sigma_min: float, sigma_max: float) -> Tensor:
        return _listed(self.sigmas, sigma_min, sigma_max)


@dataclass(frozen=True)
class OptimizedSteps:
    """A list of noise levels that was computed for a network, as `jobs.optimize_grid` does (arXiv 2405.11326).

    Settings read it from a file: `{kind: file, path: ...}`.
    """

    kind: Literal["optimized"] = "optimized"
    sigmas: tuple[float, ...] = (80.0, 2.0)
    source: str = field(default="", metadata={"label": True})  # how it was made, for people: it determines nothing
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check_sigmas(self.sigmas)

    @property
    def num_steps(self) -> int:
        return len(self.sigmas)

    def levels(self, sigma_min: float, sigma_max: float) -> Tensor:
        return _listed(self.sigmas, sigma_min, sigma_max)


@dataclass(frozen=True)
class LogSNRSteps:
    """ln sigma_i evenly spaced: uniform in log-SNR, as DPM-Solver has it (Lu et al. 2022, arXiv 2206.00927).

    The formula is that of `ve`, the default range EDM's.
    """

    kind: Literal["logsnr"] = "logsnr"
    num_steps: int = 18
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check(self.num_steps, self.sigma_min, self.sigma_max)

    def levels(self, sigma_min: float, sigma_max: float) -> Tensor:
        low, high = _narrow(self.sigma_min, self.sigma_max, sigma_min, sigma_max)
        return high * torch.pow(low / high, _ramp(self.num_steps))


_AYS_TABLES = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034),
}


@dataclass(frozen=True)
class AYSSteps:
    """A published table of ten levels, optimized for one latent network, with ln sigma interpolated to N.

    Sabour, Fidler, Kreis, "Align Your Steps" (arXiv 2404.14507): Stable Diffusion 1.5, XL, and Stable Video Diffusion.
    With N = 10 it is the table. A network of a narrower range takes the part of the table within it.
    """

    kind: Literal["ays"] = "ays"
    num_steps: int = 10
    table: Literal["sd15", "sdxl", "svd"] = "sd15"
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps: must be at least 1 (got {self.num_steps})")
        if self.table not in _AYS_TABLES:
            raise ValueError(f"table: must be one of {', '.join(_AYS_TABLES)} (got {self.table})")

    def levels(self, sigma_min: float, sigma_max: float) -> Tensor:
        table = _AYS_TABLES[self.table]
        low, high = _narrow(table[-1], table[0], sigma_min, sigma_max)
        inside = [high, *(level for level in table if low < level < high), low]
        logs = torch.tensor(inside, dtype=torch.float64).log()
        place = _ramp(self.num_steps) * (len(inside) - 1)
        left = place.floor().long().clamp(max=len(inside) - 2)
        return torch.lerp(logs[left], logs[left + 1], place - left).exp().clamp(low, high)


@dataclass(frozen=True)
class AdaptiveSteps:
    """Steps that each sample finds for itself, from a solver's own estimate of its error.

    A step is kept if the root mean square of error / (atol + rtol |x|) over the sample's elements is at most 1, x and
    error without scaling; else it is tried again, shorter. Either way the next step in ln sigma is longer or shorter
    by the factor that PID control finds (Soederlind 2003, "Digital filters in adaptive time-stepping"), and
    at sigma_min the last step goes to 0 as on any grid. How many evaluations a sample takes is counted, and
    varies. Levels between those of a network with discrete ones are asked as they come.

    Args:
        sigma_min: where the last step, to 0, begins.
        sigma_max: where all begin.
        rtol: relative tolerance.
        atol: absolute tolerance, in the range of the data.
        pcoeff: proportional coefficient; 0.4, 0.3, 0 is Gustafsson's PI control, 0, 1, 0 the elementary one.
        icoeff: integral coefficient.
        dcoeff: derivative coefficient.
        initial_step: the first one, in ln sigma.
        safety: the controller aims at this part of the step that would just be kept.
        factor_min: a step is at least this part of the one before.
        factor_max: and at most this multiple.
        max_steps: a sample that takes more, rejected ones among them, stops the run.
    """

    kind: Literal["adaptive"] = "adaptive"
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rtol: float = 0.01
    atol: float = 0.01
    pcoeff: float = 0.4
    icoeff: float = 0.3
    dcoeff: float = 0.0
    initial_step: float = 0.5
    safety: float = 0.9
    factor_min: float = 0.2
    factor_max: float = 2.0
    max_steps: int = 1000
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check(self.max_steps, self.sigma_min, self.sigma_max, "max_steps")
        for name in ("rtol", "initial_step", "factor_min", "icoeff"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: must be positive and finite (got {getattr(self, name)})")
        for name in ("atol", "pcoeff", "dcoeff"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: must be 0 or more, and finite (got {getattr(self, name)})")
        if not 0 < self.safety < 1:
            raise ValueError(f"safety: must lie between 0 and 1 (got {self.safety})")
        if not self.factor_min < self.safety:
            raise ValueError(f"factor_min: must be less than safety (got {self.factor_min} and {self.safety})")
        if not 1 < self.factor_max < math.inf:
            raise ValueError(f"factor_max: must be more than 1 (got {self.factor_max})")

    def levels(self, sigma_min: float, sigma_max: float) -> Tensor:
        low, high = _narrow(self.sigma_min, self.sigma_max, sigma_min, sigma_max)
        return torch.tensor([high, low], dtype=torch.float64)


FixedTimesteps = (
    EDMSteps | VPSteps | VESteps | IDDPMSteps | ExplicitSteps | OptimizedSteps | LogSNRSteps | AYSSteps
)  # the levels are known ahead
Timesteps = FixedTimesteps | AdaptiveSteps


def steps_of(timesteps: Timesteps) -> int | None:
    """N, or None where every sample finds its own."""
    return None if isinstance(timesteps, AdaptiveSteps) else timesteps.num_steps
