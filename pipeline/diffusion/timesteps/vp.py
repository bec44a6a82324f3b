"""The grid of the VP model: evenly spaced in its time."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from pipeline.diffusion.timesteps.base import check, narrow, ramp


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
        check(self.num_steps, self.sigma_min, self.sigma_max)
        if not 0 < self.epsilon_s < 1:
            raise ValueError(f"epsilon_s: must lie between 0 and 1 (got {self.epsilon_s})")

    def levels(self, sigma_min: float, sigma_max: float) -> Tensor:
        low, high = narrow(self.sigma_min, self.sigma_max, sigma_min, sigma_max)
        beta_d, beta_min = _vp_betas(low, high, self.epsilon_s)
        t = 1 + ramp(self.num_steps) * (self.epsilon_s - 1)
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
