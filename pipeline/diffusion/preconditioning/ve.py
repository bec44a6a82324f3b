"""The preconditioning of the VE model (NCSN++, score SDE)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.diffusion.preconditioning.base import Coefficients
from pipeline.diffusion.timesteps import NoiseLevels, check_range


@dataclass(frozen=True)
class VEPreconditioning:
    """Column VE of Table 1: F predicts the negative noise and is told ln(sigma / 2)."""

    kind: Literal["ve"] = "ve"
    sigma_min: float = 0.02
    sigma_max: float = 100.0
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_range(self.sigma_min, self.sigma_max)

    def coefficients(self, sigma: Tensor, sigma_data: float) -> Coefficients:
        return Coefficients(torch.ones_like(sigma), sigma, torch.ones_like(sigma), (0.5 * sigma).log())

    def levels(self) -> NoiseLevels:
        return NoiseLevels(self.sigma_min, self.sigma_max)
