"""ER-SDE: Taylor steps of the extended reverse-time SDE (Cui et al. 2023, arXiv 2309.06169), for any beta(t)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.diffusion.flow import Flow
from pipeline.diffusion.preconditioning import per_sample
from pipeline.diffusion.randomness import Beta, ExtendedReverse
from pipeline.diffusion.seeds import Noise
from pipeline.diffusion.solvers.base import MANY, Memory, Step
from pipeline.diffusion.solvers.plain import Plain, plain
from pipeline.diffusion.solvers.renoising import recall, remember, renoise, weighted


@dataclass(frozen=True)
class ERSDE:
    """D as a Taylor polynomial in sigma of degree stages - 1, its derivatives from differences of past evaluations.

    Any beta stands for the paper's noise scale function, phi = sigma exp(integral of beta): `er_sde_5` for the one that
    it recommends, `song` for sigma^2, `zero` for sigma. In x / s, so schedule and scaling make no difference. The
    linear part and the noise are exact; the integrals of the Taylor terms against 1 / phi are Gauss-Legendre sums (the
    authors' are Riemann sums of 100 terms). The first step of a sample is of stage 1, the second of stage 2. The third
    stage takes the first difference for the derivative, as published: the order stays 2.
    """

    kind: Literal["er_sde"] = "er_sde"
    stages: int = 3
    beta: Beta = field(default_factory=ExtendedReverse)
    s_noise: float = 1.0
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    evaluations: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.stages not in (1, 2, 3):
            raise ValueError(f"stages: must be 1, 2 or 3 (got {self.stages})")
        if not 0 <= self.s_noise < float("inf"):
            raise ValueError(f"s_noise: must be 0 or more (got {self.s_noise})")

    @property
    def order(self) -> int:
        return min(self.stages, 2)

    def step(
        self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int = MANY
    ) -> Step:
        move = plain(flow, x, t, t_next)
        z, sigma, sigma_next = move.x, move.sigma, move.sigma_next
        denoised = flow.denoised(x, t)
        z_next = renoise(z, denoised, sigma, sigma_next, self.beta.decay(sigma, sigma_next), noise, self.s_noise)
        if self.stages == 1:
            return move.step(z_next)
        last, before = recall(memory, 2, denoised, move)
        of_slope, of_bend = self._taylor(move)
        slope = (denoised - last.denoised) / per_sample(sigma - last.sigma, z)
        z_next = z_next + weighted(of_slope, slope, last.known)
        if self.stages == 3:
            last_slope = (last.denoised - before.denoised) / per_sample(last.sigma - before.sigma, z)
            bend = 2 * (slope - last_slope) / per_sample(sigma - before.sigma, z)
            z_next = z_next + weighted(of_bend, bend, before.known)
        return move.step(z_next, remember(memory, 2, denoised, sigma))

    def _taylor(self, move: Plain) -> tuple[Tensor, Tensor]:
        """What D' and D'' at sigma contribute, of shape (N,): (u - sigma)^k / k! against d(-phi(sigma_next) / phi(u)).

        Integrated by parts, with phi(sigma_next) / phi(u) = (sigma_next / u) exp(-decay).
        """
        sigma, sigma_next = move.sigma, move.sigma_next
        change = sigma_next - sigma
        of_one, of_distance = torch.zeros_like(sigma), torch.zeros_like(sigma)
        for share, weight in _nodes():
            u = sigma_next * (share * move.h).exp()
            term = weight * move.h * sigma_next * (-self.beta.decay(u, sigma_next)).exp()
            of_one, of_distance = of_one + term, of_distance + (u - sigma) * term
        return change + of_one, change**2 / 2 + of_distance


def _nodes() -> Iterator[tuple[float, float]]:
    """Gauss-Legendre nodes and weights of 8 points on [0, 1]."""
    for node, weight in _LEGENDRE:
        yield (1 - node) / 2, weight / 2
        yield (1 + node) / 2, weight / 2


_LEGENDRE = (
    (0.1834346424956498, 0.3626837833783620),
    (0.5255324099163290, 0.3137066458778873),
    (0.7966664774136267, 0.2223810344533745),
    (0.9602898564975363, 0.1012285362903763),
)
