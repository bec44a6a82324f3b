"""The preconditioning of a rectified flow's velocity."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from pipeline.diffusion.preconditioning.base import Coefficients
from pipeline.diffusion.schedules import RectifiedFlow, RectifiedFlowScaling
from pipeline.diffusion.timesteps import NoiseLevels


@dataclass(frozen=True)
class RectifiedFlowPreconditioning:
    """F predicts the velocity n - y of the rectified flow x_t = (1 - t) y + t n, and is told M t.

    x_t is x / (1 + sigma) with t = sigma / (1 + sigma), and y = x_t - t (n - y) makes the denoiser (Liu et al. 2022,
    arXiv 2209.03003). sigma is infinite at t = 1, where nothing is left of the data: levels end at t = 1 - epsilon_t.

    Args:
        M: what the time is multiplied with for the network; 1000 suits its positional embedding.
        epsilon_t: how far from pure noise the levels end.
    """

    kind: Literal["flow"] = "flow"
    M: float = 1000.0
    epsilon_t: float = 1e-3
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not 0 < self.M < math.inf:
            raise ValueError(f"M: must be positive (got {self.M})")
        if not 0 < self.epsilon_t < 1:
            raise ValueError(f"epsilon_t: must lie between 0 and 1 (got {self.epsilon_t})")

    def coefficients(self, sigma: Tensor, sigma_data: float) -> Coefficients:
        t, s = RectifiedFlow().sigma_inv(sigma), RectifiedFlowScaling().s(sigma)
        return Coefficients(s, -t, s, self.M * t)

    def levels(self) -> NoiseLevels:
        return NoiseLevels(0.0, (1 - self.epsilon_t) / self.epsilon_t)
