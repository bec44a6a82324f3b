"""Data with a known answer: the mixture of two Gaussians, at +1 and -1, in every element by itself."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    """Half N(1, std^2), half N(-1, std^2). Noise of level sigma makes the variances std^2 + sigma^2.

    A trajectory of the probability flow keeps its quantile: F(x / s; sigma) stays constant along it.
    """

    std: float = 0.5

    @property
    def total_std(self) -> float:
        """The standard deviation of the data."""
        return float((1 + self.std**2) ** 0.5)

    def denoise(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """E[y | y + sigma n = x], for x of shape (N, ...) and sigma of shape (N,)."""
        square = sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2
        v = self.std**2 + square
        return (self.std**2 * x + square * torch.tanh(x / v)) / v

    def cdf(self, x: Tensor, sigma: Tensor) -> Tensor:
        deviation = (self.std**2 + sigma**2).sqrt()
        return (torch.special.ndtr((x - 1) / deviation) + torch.special.ndtr((x + 1) / deviation)) / 2

    def quantile(self, p: Tensor, sigma: Tensor) -> Tensor:
        """The x at which the distribution function is p <= 1/2, by bisection."""
        deviation = (self.std**2 + sigma**2).sqrt()
        low, high = -1 - 40 * deviation + torch.zeros_like(p), torch.zeros_like(p)
        for _ in range(100):
            middle = (low + high) / 2
            below = self.cdf(middle, sigma) < p
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def transport(self, x: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        """Where the flow brings x (without scaling) from sigma to sigma_next; by symmetry in the exact lower tail."""
        lower = self.quantile(self.cdf(-x.abs(), sigma), sigma_next)
        return -x.sign() * lower
