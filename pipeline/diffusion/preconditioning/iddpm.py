"""The preconditioning of iDDPM and ADM, whose levels are a table."""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.diffusion.preconditioning.base import Coefficients, nearest_index
from pipeline.diffusion.timesteps import NoiseLevels, check_iddpm, iddpm_levels


@dataclass(frozen=True)
class IDDPMPreconditioning:
    """Column iDDPM of Table 1: as VP, but the network knows only the M levels u_j and is told an index."""

    kind: Literal["iddpm"] = "iddpm"
    M: int = 1000
    C_1: float = 0.001
    C_2: float = 0.008
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_iddpm(self.M, self.C_1, self.C_2)

    def coefficients(self, sigma: Tensor, sigma_data: float) -> Coefficients:
        c_noise = (self.M - 1 - self._nearest(sigma)).to(sigma.dtype)
        return Coefficients(torch.ones_like(sigma), -sigma, (sigma**2 + 1).rsqrt(), c_noise)

    def levels(self) -> NoiseLevels:
        u = self._u(torch.device("cpu"))
        return NoiseLevels(float(u[self.M - 1]), float(u[0]), self.round_sigma)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """The nearest u_j, j < M, of each sigma."""
        return self._u(sigma.device)[self._nearest(sigma)].to(sigma.dtype)

    def _nearest(self, sigma: Tensor) -> Tensor:
        return self.M - 1 - nearest_index(self._u(sigma.device)[: self.M].flip(0), sigma)

    def _u(self, device: torch.device) -> Tensor:
        return _table(self.M, self.C_1, self.C_2, device)


@cache
def _table(M: int, C_1: float, C_2: float, device: torch.device) -> Tensor:
    return iddpm_levels(M, C_1, C_2).to(device)
