"""What all preconditionings share."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pipeline.diffusion.seeds import placed
from pipeline.diffusion.timesteps import NoiseLevels


class Coefficients(NamedTuple):
    """The four functions at one sigma, each of sigma's shape."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


class PreconditioningShape(Protocol):
    def coefficients(self, sigma: Tensor, sigma_data: float) -> Coefficients: ...

    def levels(self) -> NoiseLevels:
        """The noise levels that a network of this preconditioning can be asked."""
        ...


def nearest_index(levels: Tensor, sigma: Tensor) -> Tensor:
    """The index of the level that is nearest to each sigma.

    Args:
        levels: ascending, float64, at least two.
        sigma: any shape.
    """
    flat = sigma.to(torch.float64).contiguous()
    above = torch.searchsorted(levels, flat).clamp(1, len(levels) - 1)
    return torch.where(flat - levels[above - 1] < levels[above] - flat, above - 1, above)


def per_sample(values: Tensor, x: Tensor) -> Tensor:
    """(N,) as (N, 1, ..., 1), to be multiplied with x of shape (N, ...), on its device."""
    return placed(values, x.device).reshape(-1, *[1] * (x.ndim - 1))
