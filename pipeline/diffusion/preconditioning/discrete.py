"""The preconditioning of DDPM's descendants, whose levels are products of their betas."""

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.diffusion.preconditioning.base import Coefficients, nearest_index
from pipeline.diffusion.timesteps import NoiseLevels


@dataclass(frozen=True)
class DiscretePreconditioning:
    """A VP network of M discrete levels, told the level's index j, as DDPM and its descendants train them.

    sigma_j^2 = 1 / abar_j - 1 with abar_j the product of 1 - beta_i, i <= j (Ho et al. 2020, section 2). F predicts the
    noise, the image, or v = sqrt(abar) n - sqrt(1 - abar) y (Salimans and Ho 2022, appendix D).

    Args:
        schedule: of beta: `linear`; `scaled_linear`, linear in the square root; `cosine`, abar = cos^2 capped at
            beta = 0.999, which takes no beta_start and beta_end (Nichol and Dhariwal 2021); `sigmoid`.
        M: levels.
        prediction: what F predicts.
        betas: all of them, in the place of `schedule`, `beta_start`, `beta_end` and `M`; empty where these say it.

    Raises:
        ValueError: a value is out of its range.
    """

    kind: Literal["discrete"] = "discrete"
    schedule: Literal["linear", "scaled_linear", "cosine", "sigmoid"] = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    M: int = 1000
    prediction: Literal["epsilon", "v", "sample"] = "epsilon"
    betas: tuple[float, ...] = ()
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"beta_start: must be positive and at most beta_end, which is below 1 "
                f"(got {self.beta_start} and {self.beta_end})"
            )
        if not 2 <= self.M <= 1_000_000:
            raise ValueError(f"M: must be at least 2 and at most a million (got {self.M})")
        if self.betas and (len(self.betas) < 2 or not all(0 < beta < 1 for beta in self.betas)):
            raise ValueError("betas: must be at least two numbers between 0 and 1")
        if not math.isfinite(float(self._sigma(torch.device("cpu"))[-1])):
            raise ValueError(f"betas: nothing of the image is left at the last of {self.M} levels; use fewer levels")

    def coefficients(self, sigma: Tensor, sigma_data: float) -> Coefficients:
        c_in = (sigma**2 + 1).rsqrt()
        c_noise = nearest_index(self._sigma(sigma.device), sigma).to(sigma.dtype)
        match self.prediction:
            case "epsilon":
                return Coefficients(torch.ones_like(sigma), -sigma, c_in, c_noise)
            case "v":
                return Coefficients(c_in**2, -sigma * c_in, c_in, c_noise)
            case "sample":
                return Coefficients(torch.zeros_like(sigma), torch.ones_like(sigma), c_in, c_noise)

    def levels(self) -> NoiseLevels:
        sigma = self._sigma(torch.device("cpu"))
        return NoiseLevels(float(sigma[0]), float(sigma[-1]), self.round_sigma)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """The nearest sigma_j of each sigma."""
        levels = self._sigma(sigma.device)
        return levels[nearest_index(levels, sigma)].to(sigma.dtype)

    def _sigma(self, device: torch.device) -> Tensor:
        return _discrete_levels(self.schedule, self.beta_start, self.beta_end, self.M, self.betas, device)


@cache
def _discrete_levels(
    schedule: str, beta_start: float, beta_end: float, M: int, betas: tuple[float, ...], device: torch.device
) -> Tensor:
    """sigma_0 < ... < sigma_{M-1}, float64."""
    ramp = torch.linspace(0, 1, M, dtype=torch.float64)
    match "explicit" if betas else schedule:
        case "linear":
            beta = beta_start + ramp * (beta_end - beta_start)
        case "scaled_linear":
            beta = (beta_start**0.5 + ramp * (beta_end**0.5 - beta_start**0.5)) ** 2
        case "sigmoid":
            beta = beta_start + torch.sigmoid(12 * ramp - 6) * (beta_end - beta_start)
        case "cosine":
            t = torch.arange(M + 1, dtype=torch.float64) / M
            abar = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
            beta = (1 - abar[1:] / abar[:-1]).clamp(max=0.999)
        case _:
            beta = torch.tensor(betas, dtype=torch.float64)
    log_abar = torch.log1p(-beta).cumsum(0)
    return torch.expm1(-log_abar).sqrt().to(device)
