"""Steps whose length every sample finds for itself."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.diffusion.timesteps.base import check, narrow


@dataclass(frozen=True)
class AdaptiveSteps:
    """Steps that each sample finds for itself, from a solver's own estimate of its error.

    A step is kept if the root mean square of error / (atol + rtol |x|) over the sample's elements is at most 1, x and
    error without scaling; else it is tried again, shorter. Either way the next step in ln sigma is longer or shorter
    by the factor that PID control finds (Soederlind 2003, "Digital filters in adaptive time-stepping"), and
    at sigma_min the last step goes to 0 as on any grid. How many evaluations a sample takes is counted, and
    varies. Levels between those of a network with discrete ones are asked as they come.

    Args:
        sigma_min: where the last step, to 0, begins.
        sigma_max: where all begin.
        rtol: relative tolerance.
        atol: absolute tolerance, in the range of the data.
        pcoeff: proportional coefficient; 0.4, 0.3, 0 is Gustafsson's PI control, 0, 1, 0 the elementary one.
        icoeff: integral coefficient.
        dcoeff: derivative coefficient.
        initial_step: the first one, in ln sigma.
        safety: the controller aims at this part of the step that would just be kept.
        factor_min: a step is at least this part of the one before.
        factor_max: and at most this multiple.
        max_steps: a sample that takes more, rejected ones among them, stops the run.
    """

    kind: Literal["adaptive"] = "adaptive"
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rtol: float = 0.01
    atol: float = 0.01
    pcoeff: float = 0.4
    icoeff: float = 0.3
    dcoeff: float = 0.0
    initial_step: float = 0.5
    safety: float = 0.9
    factor_min: float = 0.2
    factor_max: float = 2.0
    max_steps: int = 1000
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check(self.max_steps, self.sigma_min, self.sigma_max, "max_steps")
        for name in ("rtol", "initial_step", "factor_min", "icoeff"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}: must be positive and finite (got {getattr(self, name)})")
        for name in ("atol", "pcoeff", "dcoeff"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: must be 0 or more, and finite (got {getattr(self, name)})")
        if not 0 < self.safety < 1:
            raise ValueError(f"safety: must lie between 0 and 1 (got {self.safety})")
        if not self.factor_min < self.safety:
            raise ValueError(f"factor_min: must be less than safety (got {self.factor_min} and {self.safety})")
        if not 1 < self.factor_max < math.inf:
            raise ValueError(f"factor_max: must be more than 1 (got {self.factor_max})")

    def levels(self, sigma_min: float, sigma_max: float) -> Tensor:
        low, high = narrow(self.sigma_min, self.sigma_max, sigma_min, sigma_max)
        return torch.tensor([high, low], dtype=torch.float64)
