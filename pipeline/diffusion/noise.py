"""The training noise p_train(sigma) and the loss weight lambda(sigma), each chosen by itself (Table 1, "Training").

A distribution is its quantile function: `sigma(u)` for u uniform in (0, 1). So where the u come from (one a sample,
stratified over a batch, a low-discrepancy sequence) is not its business.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from pipeline.diffusion.schedules import VP
from pipeline.diffusion.timesteps import check_iddpm, iddpm_levels


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
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"sigma_min: must be positive and less than sigma_max (got {self.sigma_min} and {self.sigma_max})"
            )

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


TrainingNoise = LogNormal | VPUniformTime | LogUniform | IDDPMLevels
Weighting = EDMWeighting | InverseVariance
