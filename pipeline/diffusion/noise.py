"""The training noise p_train(sigma) and the loss weight lambda(sigma), each chosen by itself (Table 1, "Training").

A distribution is its quantile function: `sigma(u)` for u uniform in (0, 1). So where the u come from (one a sample,
stratified over a batch, a low-discrepancy sequence) is not its business.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from pipeline.diffusion.schedules import VP, RectifiedFlow
from pipeline.diffusion.timesteps import check_iddpm, check_range, iddpm_levels


class TrainingNoiseShape(Protocol):
    def sigma(self, u: Tensor) -> Tensor:
        """The quantile function: noise levels for u in (0, 1), float64 of u's shape."""
        ...


class WeightingShape(Protocol):
    def weight(self, sigma: Tensor, sigma_data: float) -> Tensor:
        """lambda(sigma), of sigma's shape."""
        ...


@dataclass(frozen=True)
class LogNormal:
    """ln sigma ~ N(P_mean, P_std^2) (Table 1, column EDM)."""

    kind: Literal["lognormal"] = "lognormal"
    P_mean: float = -1.2
    P_std: float = 1.2
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not self.P_std > 0:
            raise ValueError(f"P_std: must be positive (got {self.P_std})")

    def sigma(self, u: Tensor) -> Tensor:
        return torch.exp(self.P_mean + self.P_std * torch.special.ndtri(u))


@dataclass(frozen=True)
class VPUniformTime:
    """sigma = sigma(t) of the VP schedule, t ~ U(epsilon_t, 1) (Table 1, column VP)."""

    kind: Literal["vp"] = "vp"
    beta_d: float = 19.9
    beta_min: float = 0.1
    epsilon_t: float = 1e-5
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        VP(beta_d=self.beta_d, beta_min=self.beta_min)
        if not 0 < self.epsilon_t < 1:
            raise ValueError(f"epsilon_t: must lie between 0 and 1 (got {self.epsilon_t})")

    def sigma(self, u: Tensor) -> Tensor:
        return VP(beta_d=self.beta_d, beta_min=self.beta_min).sigma(1 + u * (self.epsilon_t - 1))


@dataclass(frozen=True)
class LogUniform:
    """ln sigma ~ U(ln sigma_min, ln sigma_max) (Table 1, column VE)."""

    kind: Literal["loguniform"] = "loguniform"
    sigma_min: float = 0.02
    sigma_max: float = 100.0
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_range(self.sigma_min, self.sigma_max)

    def sigma(self, u: Tensor) -> Tensor:
        return (math.log(self.sigma_min) + u * math.log(self.sigma_max / self.sigma_min)).exp()


@dataclass(frozen=True)
class IDDPMLevels:
    """sigma = u_j, j uniform in 0 ... M - 1 (Table 1, column iDDPM)."""

    kind: Literal["iddpm"] = "iddpm"
    M: int = 1000
    C_1: float = 0.001
    C_2: float = 0.008
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_iddpm(self.M, self.C_1, self.C_2)

    def sigma(self, u: Tensor) -> Tensor:
        levels = iddpm_levels(self.M, self.C_1, self.C_2).to(u.device)
        return levels[(u * self.M).floor().long().clamp(0, self.M - 1)]


@dataclass(frozen=True)
class RectifiedFlowUniformTime:
    """sigma = t / (1 - t), t ~ U(0, 1 - epsilon_t): the training noise of the rectified flow (Liu et al. 2022).

    Its other one, a logit-normal t (Esser et al. 2024, arXiv 2403.03206), is `LogNormal`, since logit t = ln sigma.
    """

    kind: Literal["flow"] = "flow"
    epsilon_t: float = 1e-3
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not 0 < self.epsilon_t < 1:
            raise ValueError(f"epsilon_t: must lie between 0 and 1 (got {self.epsilon_t})")

    def sigma(self, u: Tensor) -> Tensor:
        return RectifiedFlow().sigma(u * (1 - self.epsilon_t))


@dataclass(frozen=True)
class LogLogistic:
    """ln sigma has a logistic distribution of mean P_mean and standard deviation P_std: as `LogNormal`, wider tails.

    Used by Crowson et al. 2024, arXiv 2401.11605. A uniform t of the rectified flow has P_mean 0 and P_std pi/sqrt(3).
    """

    kind: Literal["loglogistic"] = "loglogistic"
    P_mean: float = -1.2
    P_std: float = 1.2
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not self.P_std > 0:
            raise ValueError(f"P_std: must be positive (got {self.P_std})")

    def sigma(self, u: Tensor) -> Tensor:
        return torch.exp(self.P_mean + self.P_std * math.sqrt(3) / math.pi * torch.logit(u))


@dataclass(frozen=True)
class Cosine:
    """A uniform time of the cosine schedule of Nichol and Dhariwal 2021 (arXiv 2102.09672, Eq. 17), up to sigma_max.

    The schedule is 1 + sigma^2 = f(0) / f(t) with f(t) = cos^2(pi/2 (t + C_2) / (1 + C_2)); the levels of `IDDPMLevels`
    are even steps in it. sigma is infinite at t = 1, so t ends where sigma_max is reached.
    """

    kind: Literal["cosine"] = "cosine"
    sigma_max: float = 80.0
    C_2: float = 0.008
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not 0 < self.sigma_max < math.inf:
            raise ValueError(f"sigma_max: must be positive (got {self.sigma_max})")
        if not 0 <= self.C_2 < math.inf:
            raise ValueError(f"C_2: must be 0 or more (got {self.C_2})")

    def sigma(self, u: Tensor) -> Tensor:
        first = 0.5 * math.pi * self.C_2 / (1 + self.C_2)  # the angle at t = 0, and at sigma_max
        last = math.acos(math.cos(first) / math.hypot(1, self.sigma_max))
        rise = u * (last - first)
        # f(0) - f(t) as a product of sines, without the cancellation at small t.
        return (torch.sin(rise + 2 * first) * torch.sin(rise)).sqrt() / torch.cos(first + rise)


@dataclass(frozen=True)
class InverseVariance:
    """lambda = 1 / sigma^2 (Table 1, columns VP, VE and iDDPM)."""

    kind: Literal["inverse_variance"] = "inverse_variance"
    revision: ClassVar[int] = 1

    def weight(self, sigma: Tensor, sigma_data: float) -> Tensor:
        return sigma**-2


@dataclass(frozen=True)
class EDMWeighting:
    """lambda = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2: weight 1 on F's target (Table 1, column EDM)."""

    kind: Literal["edm"] = "edm"
    revision: ClassVar[int] = 1

    def weight(self, sigma: Tensor, sigma_data: float) -> Tensor:
        return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


@dataclass(frozen=True)
class RectifiedFlowWeighting:
    """lambda = ((1 + sigma) / sigma)^2: weight 1 on the velocity that a network of the rectified flow predicts.

    Liu et al. 2022, arXiv 2209.03003.
    """

    kind: Literal["flow"] = "flow"
    revision: ClassVar[int] = 1

    def weight(self, sigma: Tensor, sigma_data: float) -> Tensor:
        return RectifiedFlow().sigma_inv(sigma) ** -2


TrainingNoise = LogNormal | VPUniformTime | LogUniform | IDDPMLevels | RectifiedFlowUniformTime | LogLogistic | Cosine
Weighting = EDMWeighting | InverseVariance | RectifiedFlowWeighting
