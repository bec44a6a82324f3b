"""Solvers on Gaussian data, where mean and variance can be followed exactly: no sample is drawn.

For data N(mu, std^2) the denoiser is linear, so a state is a linear combination of 1, the starting state and the noise
of every bit of the path. Here the "pixels" of a sample are its coefficients.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pipeline.diffusion.flow import Flow
from pipeline.diffusion.guidance import Unguided
from pipeline.diffusion.preconditioning import per_sample
from pipeline.diffusion.seeds import Noise
from pipeline.diffusion.solvers import MANY


class Asked(Noise):
    """No noise; notes the levels between which some was wanted."""

    def __init__(self, num_samples: int, width: int) -> None:
        super().__init__(torch.arange(num_samples), (width,))
        self.levels: list[Tensor] = []

    def between(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        self.levels += [sigma, sigma_next]
        return torch.zeros(len(sigma), *self.shape, dtype=torch.float64)


class Probes(Noise):
    """Independent noise between neighbouring levels: each such bit of the path is a pixel of its own, the third on.

    Args:
        levels: decreasing, float64 of shape (number of levels, N).
    """

    def __init__(self, levels: Tensor) -> None:
        super().__init__(torch.arange(levels.shape[1]), (len(levels) + 1,))
        self._levels = levels
        self._lengths = (levels[:-1] / levels[1:]).log()

    def between(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        inside = (self._levels[:-1] < sigma * (1 + 1e-9)) & (self._levels[1:] > sigma_next * (1 - 1e-9))
        shares = torch.where(inside, self._lengths, 0) / (sigma / sigma_next).log()
        assert bool(((shares.sum(dim=0) - 1).abs() < 1e-6).all()), "the levels asked for are not among those known"
        return torch.nn.functional.pad(shares.sqrt().T, (2, 0))


@dataclass(frozen=True)
class Gaussian:
    """Data N(mu, std^2) in every element, and a start at the right variance but another mean."""

    mu: float = 0.7
    std: float = 0.5
    mean: float = 3.0

    def denoise(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        square = per_sample(sigma**2, x)
        one = torch.zeros_like(x)
        one[:, 0] = 1
        return (self.std**2 * x + square * self.mu * one) / (self.std**2 + square)

    def follow(self, solver: Any, sigmas: Tensor, schedule: Any, scaling: Any) -> tuple[Tensor, Tensor]:
        """Mean and variance at the last of these levels, each of shape (N,), for sigmas of shape (levels, N)."""
        levels = sigmas
        if solver.evaluations > 1:  # it asks for noise within its steps, too
            asked = Asked(sigmas.shape[1], 2)
            self._walk(solver, sigmas, schedule, scaling, asked)
            levels = torch.cat([sigmas, *(level[None] for level in asked.levels)]).sort(dim=0, descending=True)[0]
            new = (levels[:-1] / levels[1:] > 1 + 1e-9).all(dim=1)
            levels = levels[torch.cat([torch.tensor([True]), new])]
        x = self._walk(solver, sigmas, schedule, scaling, Probes(levels))
        return x[:, 0], x[:, 1:].square().sum(dim=1)

    def _walk(self, solver: Any, sigmas: Tensor, schedule: Any, scaling: Any, noise: Noise) -> Tensor:
        num_samples = sigmas.shape[1]
        flow = Flow(self.denoise, schedule, scaling, Unguided(), None, torch.zeros(num_samples).long())
        x = torch.zeros(num_samples, *noise.shape, dtype=torch.float64)
        x[:, 0], x[:, 1] = self.mean, (self.std**2 + sigmas[0] ** 2).sqrt()
        x, memory = per_sample(flow.s(flow.t(sigmas[0])), x) * x, ()
        for sigma, sigma_next in pairwise(sigmas):
            x, memory, _ = solver.step(flow, x, flow.t(sigma), flow.t(sigma_next), memory, noise, MANY)
        return x / per_sample(flow.s(flow.t(sigmas[-1])), x)

    def exact(self, beta: Any, sigma: float, sigma_next: float) -> tuple[float, float]:
        """Mean and variance at sigma_next of the SDE: the mean's distance from mu falls by a fine midpoint sum of
        exp(-integral of (1 + rho) sigma^2 / (std^2 + sigma^2) dlambda); the variance is that of the marginal."""
        ends = torch.linspace(0, 1, 20_001, dtype=torch.float64)
        levels = sigma * (sigma_next / sigma) ** ends
        upper, lower = levels[:-1], levels[1:]
        length = (upper / lower).log() + beta.decay(upper, lower)
        fall = (length * upper * lower / (self.std**2 + upper * lower)).sum()
        return self.mu + (self.mean - self.mu) * float((-fall).exp()), self.std**2 + sigma_next**2
