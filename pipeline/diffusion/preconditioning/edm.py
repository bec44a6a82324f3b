"""EDM's preconditioning."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from pipeline.diffusion.preconditioning.base import Coefficients
from pipeline.diffusion.timesteps import NoiseLevels


@dataclass(frozen=True)
class EDMPreconditioning:
    """Column EDM of Table 1: input and training target of F have variance 1 at every sigma."""

    kind: Literal["edm"] = "edm"
    revision: ClassVar[int] = 1

    def coefficients(self, sigma: Tensor, sigma_data: float) -> Coefficients:
        total = sigma**2 + sigma_data**2
        return Coefficients(sigma_data**2 / total, sigma * sigma_data * total.rsqrt(), total.rsqrt(), sigma.log() / 4)

    def levels(self) -> NoiseLevels:
        return NoiseLevels(0.0, math.inf)
