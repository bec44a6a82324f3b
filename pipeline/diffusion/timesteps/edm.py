"""EDM's grid: evenly spaced in sigma^(1/rho)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.diffusion.timesteps.base import check, narrow, ramp


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
        check(self.num_steps, self.sigma_min, self.sigma_max)
        if not self.rho > 0:
            raise ValueError(f"rho: must be positive (got {self.rho})")

    def levels(self, sigma_min: float, sigma_max: float) -> Tensor:
        low, high = narrow(self.sigma_min, self.sigma_max, sigma_min, sigma_max)
        top, bottom = high ** (1 / self.rho), low ** (1 / self.rho)
        return torch.pow(top + ramp(self.num_steps) * (bottom - top), self.rho)
