"""The grid of the iDDPM model: levels of its table."""

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.diffusion.timesteps.base import check, narrow, ramp


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
        check(self.num_steps, self.sigma_min, self.sigma_max)
        check_iddpm(self.M, self.C_1, self.C_2)

    def levels(self, sigma_min: float, sigma_max: float) -> Tensor:
        low, high = narrow(self.sigma_min, self.sigma_max, sigma_min, sigma_max)
        u = iddpm_levels(self.M, self.C_1, self.C_2)
        u = u[(u >= low) & (u <= high)]
        if len(u) < self.num_steps:
            raise ValueError(
                f"num_steps: the iddpm grid has only {len(u)} levels between {low:.6g} and {high:.6g} "
                f"(got {self.num_steps})"
            )
        return u[(ramp(self.num_steps) * (len(u) - 1) + 0.5).floor().long()]
