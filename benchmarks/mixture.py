"""Data whose flow is known in closed form: half N(1, std^2), half N(-1, std^2), in every element by itself."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    """Along a trajectory of the probability flow the quantile stays the same: F(x; sigma) is constant."""

    std: float = 0.5

    def denoise(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """E[y | y + sigma n = x], for x of shape (N, ...) and sigma of shape (N,)."""
        noise = sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2
        v = self.std**2 + noise
        return (self.std**2 * x + noise * torch.tanh(x / v)) / v

    def end(self, x: Tensor, sigma: float) -> Tensor:
        """Where the flow brings x from sigma to 0, by bisection; negative x alone, since tails keep their digits
        there, and the data are symmetric."""
        p = self._cdf(-x.abs(), sigma)
        low, high = torch.full_like(p, -1 - 40 * self.std), torch.zeros_like(p)
        for _ in range(80):
            middle = (low + high) / 2
            below = self._cdf(middle, 0.0) < p
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return -x.sign() * (low + high) / 2

    def _cdf(self, x: Tensor, sigma: float) -> Tensor:
        deviation = (self.std**2 + sigma**2) ** 0.5
        return (torch.special.ndtr((x - 1) / deviation) + torch.special.ndtr((x + 1) / deviation)) / 2
