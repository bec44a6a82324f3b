"""Grids whose levels fall by the same factor from step to step."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.diffusion.timesteps.base import check, narrow, ramp


def _falling(num_steps: int, low: float, high: float) -> Tensor:
    """Levels evenly spaced in ln sigma, from high to low."""
    return high * torch.pow(low / high, ramp(num_steps))


@dataclass(frozen=True)
class VESteps:
    """sigma_i^2 = sigma_max^2 (sigma_min^2 / sigma_max^2)^(i/(N-1)): geometric (Table 1, column VE)."""

    kind: Literal["ve"] = "ve"
    num_steps: int = 18
    sigma_min: float = 0.02
    sigma_max: float = 100.0
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self.num_steps, self.sigma_min, self.sigma_max)

    def levels(self, sigma_min: float, sigma_max: float) -> Tensor:
        return _falling(self.num_steps, *narrow(self.sigma_min, self.sigma_max, sigma_min, sigma_max))


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
        check(self.num_steps, self.sigma_min, self.sigma_max)

    def levels(self, sigma_min: float, sigma_max: float) -> Tensor:
        return _falling(self.num_steps, *narrow(self.sigma_min, self.sigma_max, sigma_min, sigma_max))
