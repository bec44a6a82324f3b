"""Published tables of noise levels: Align Your Steps."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.diffusion.timesteps.base import narrow, ramp

_AYS_TABLES = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034),
}


@dataclass(frozen=True)
class AYSSteps:
    """A published table of ten levels, optimized for one latent network, with ln sigma interpolated to N.

    Sabour, Fidler, Kreis, "Align Your Steps" (arXiv 2404.14507): Stable Diffusion 1.5, XL, and Stable Video Diffusion.
    With N = 10 it is the table. A network of a narrower range takes the part of the table within it.
    """

    kind: Literal["ays"] = "ays"
    num_steps: int = 10
    table: Literal["sd15", "sdxl", "svd"] = "sd15"
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps: must be at least 1 (got {self.num_steps})")
        if self.table not in _AYS_TABLES:
            raise ValueError(f"table: must be one of {', '.join(_AYS_TABLES)} (got {self.table})")

    def levels(self, sigma_min: float, sigma_max: float) -> Tensor:
        table = _AYS_TABLES[self.table]
        low, high = narrow(table[-1], table[0], sigma_min, sigma_max)
        inside = [high, *(level for level in table if low < level < high), low]
        logs = torch.tensor(inside, dtype=torch.float64).log()
        place = ramp(self.num_steps) * (len(inside) - 1)
        left = place.floor().long().clamp(max=len(inside) - 2)
        return torch.lerp(logs[left], logs[left + 1], place - left).exp().clamp(low, high)
