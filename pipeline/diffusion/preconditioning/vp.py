"""The preconditioning of the VP model (DDPM++, score SDE)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.diffusion.preconditioning.base import Coefficients
from pipeline.diffusion.schedules import VP
from pipeline.diffusion.timesteps import NoiseLevels


@dataclass(frozen=True)
class VPPreconditioning:
    """Column VP of Table 1: F predicts the noise (c_out = -sigma, c_skip = 1) and is told the time, (M - 1) t."""

    kind: Literal["vp"] = "vp"
    beta_d: float = 19.9
    beta_min: float = 0.1
    M: int = 1000
    epsilon_t: float = 1e-5
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        VP(beta_d=self.beta_d, beta_min=self.beta_min)
        if self.M < 2:
            raise ValueError(f"M: must be at least 2 (got {self.M})")
        if not 0 < self.epsilon_t < 1:
            raise ValueError(f"epsilon_t: must lie between 0 and 1 (got {self.epsilon_t})")

    def coefficients(self, sigma: Tensor, sigma_data: float) -> Coefficients:
        c_noise = (self.M - 1) * self._schedule.sigma_inv(sigma)
        return Coefficients(torch.ones_like(sigma), -sigma, (sigma**2 + 1).rsqrt(), c_noise)

    def levels(self) -> NoiseLevels:
        low, high = self._schedule.sigma(torch.tensor([self.epsilon_t, 1.0], dtype=torch.float64)).tolist()
        return NoiseLevels(low, high)

    @property
    def _schedule(self) -> VP:
        return VP(beta_d=self.beta_d, beta_min=self.beta_min)
