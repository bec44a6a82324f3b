"""Grids that are a list of noise levels."""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor


def _check_sigmas(sigmas: tuple[float, ...]) -> None:
    if not sigmas:
        raise ValueError("sigmas: must name at least one noise level (got none)")
    if any(not math.inf > a > b for a, b in pairwise((*sigmas, 0.0))):
        raise ValueError(f"sigmas: must be positive, finite and decreasing (got {list(sigmas)})")


def _listed(sigmas: tuple[float, ...], sigma_min: float, sigma_max: float) -> Tensor:
    if sigmas[0] > sigma_max or sigmas[-1] < sigma_min:
        raise ValueError(
            f"sigmas: {sigmas[0]:.6g} ... {sigmas[-1]:.6g} lie outside what the network supports, "
            f"[{sigma_min:.6g}, {sigma_max:.6g}]"
        )
    return torch.tensor(sigmas, dtype=torch.float64)


@dataclass(frozen=True)
class ExplicitSteps:
    """A list of noise levels, largest first, without the final zero."""

    kind: Literal["explicit"] = "explicit"
    sigmas: tuple[float, ...] = (80.0, 2.0)
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check_sigmas(self.sigmas)

    @property
    def num_steps(self) -> int:
        return len(self.sigmas)

    def levels(self, sigma_min: float, sigma_max: float) -> Tensor:
        return _listed(self.sigmas, sigma_min, sigma_max)


@dataclass(frozen=True)
class OptimizedSteps:
    """A list of noise levels that was computed for a network, as `jobs.optimize_grid` does (arXiv 2405.11326).

    Settings read it from a file: `{kind: file, path: ...}`.
    """

    kind: Literal["optimized"] = "optimized"
    sigmas: tuple[float, ...] = (80.0, 2.0)
    source: str = field(default="", metadata={"label": True})  # how it was made, for people: it determines nothing
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check_sigmas(self.sigmas)

    @property
    def num_steps(self) -> int:
        return len(self.sigmas)

    def levels(self, sigma_min: float, sigma_max: float) -> Tensor:
        return _listed(self.sigmas, sigma_min, sigma_max)
