"""DEIS: the slope's polynomial in a time of one's choice, integrated exactly against the noise level."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.diffusion.flow import Flow
from pipeline.diffusion.schedules import VP
from pipeline.diffusion.seeds import Noise
from pipeline.diffusion.solvers.base import MANY, Memory, Step
from pipeline.diffusion.solvers.linear_multistep import adams_bashforth, check_max_order
from pipeline.diffusion.solvers.plain import plain

NUM_POINTS = 32  # of the quadrature: exact to rounding for steps up to a factor of 50 in sigma


@dataclass(frozen=True)
class DEIS:
    """DEIS, tAB (Zhang and Chen 2022, arXiv 2204.13902): Adams-Bashforth with a polynomial in VP time.

    time: the variable of the polynomial: `vp`, the time of the VP schedule (beta_d = 19.9, beta_min = 0.1), whatever
        the schedule of the sampler; or `log_rho`, ln sigma, which diffusers has. In sigma itself it would be LMS.
    lower_order_final: the step before the last has order 2 at most (diffusers does so in runs of less than 15 steps;
        the publication does not).
    """

    kind: Literal["deis"] = "deis"
    max_order: int = 4
    time: Literal["vp", "log_rho"] = "vp"
    lower_order_final: bool = False
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    evaluations: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_max_order(self.max_order, 4)
        if self.time not in ("vp", "log_rho"):
            raise ValueError(f"time: must be vp or log_rho (got {self.time})")

    @property
    def order(self) -> int:
        return self.max_order

    def step(
        self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int = MANY
    ) -> Step:
        def rule(sigmas: Sequence[Tensor], sigma_next: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
            time = VP().sigma_inv if self.time == "vp" else torch.log
            nodes = [time(sigma) for sigma in sigmas]
            return nodes, _weights(time, nodes, sigmas[0], sigma_next)

        most = ahead if self.lower_order_final else MANY
        return adams_bashforth(plain(flow, x, t, t_next), memory, self.max_order, rule, most)


def _weights(
    time: Callable[[Tensor], Tensor], nodes: Sequence[Tensor], sigma: Tensor, sigma_next: Tensor
) -> list[Tensor]:
    """The integral of (u - u_0) ... (u - u_(k-1)), u = time(sigma), over sigma from a step's start to its end."""
    points, shares = _gauss_legendre(sigma.device)
    h = (sigma / sigma_next).log()[:, None]
    inner = sigma[:, None] * (-h * points).exp()  # ln sigma is where both times are smooth
    integrand, u = -h * shares * inner, time(inner)
    weights = [sigma_next - sigma]
    for node in nodes[:-1]:
        integrand = integrand * (u - node[:, None])
        weights.append(_total(integrand))
    return weights


def _total(values: Tensor) -> Tensor:
    """The sum of each row, of a length that is a power of 2, in an order that no shape has a say in."""
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        values = values[:, :half] + values[:, half:]
    return values[:, 0]


@cache
def _gauss_legendre(device: torch.device) -> tuple[Tensor, Tensor]:
    """Points in (0, 1) and their weights: the zeros of Legendre's polynomial, by Newton's method."""
    found = []
    for index in range(NUM_POINTS):
        z = math.cos(math.pi * (index + 0.75) / (NUM_POINTS + 0.5))
        for _ in range(10):
            value, slope = _legendre(z)
            z -= value / slope
        slope = _legendre(z)[1]
        found.append(((1 - z) / 2, 1 / ((1 - z * z) * slope * slope)))
    points, weights = torch.tensor(found, dtype=torch.float64, device=device).T
    return points, weights


def _legendre(z: float) -> tuple[float, float]:
    """Legendre's polynomial of degree NUM_POINTS and its derivative, by the recurrence in the degree."""
    before, value = 1.0, z
    for degree in range(1, NUM_POINTS):
        before, value = value, ((2 * degree + 1) * z * value - degree * before) / (degree + 1)
    return value, NUM_POINTS * (z * value - before) / (z * z - 1)
