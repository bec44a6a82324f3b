"""DPM-Solver and DPM-Solver++: steps in ln sigma, of which the linear part is solved exactly."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.diffusion.flow import Flow
from pipeline.diffusion.preconditioning import per_sample
from pipeline.diffusion.seeds import Noise
from pipeline.diffusion.solvers.base import MANY, Memory, Step
from pipeline.diffusion.solvers.multistep import (
    differences,
    exponential_moments,
    levels,
    newton_weights,
    recall,
    weighted,
)
from pipeline.diffusion.solvers.plain import Plain, plain


def _check_r(r: float) -> None:
    if not 0 < r <= 1:
        raise ValueError(f"r: must be above 0 and at most 1 (got {r})")


@dataclass(frozen=True)
class DPMSolver2:
    """DPM-Solver-2 (Lu et al. 2022, arXiv 2206.00927), with a second answer at an inner level.

    The inner level lies at the share r of the step in ln sigma; r = 1/2, the geometric mean, is its Algorithm 1.
    """

    kind: Literal["dpm_2"] = "dpm_2"
    r: float = 0.5
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    evaluations: ClassVar[int] = 2

    def __post_init__(self) -> None:
        _check_r(self.r)

    @property
    def order(self) -> int:
        return 2

    def step(
        self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int = MANY
    ) -> Step:
        move = plain(flow, x, t, t_next)
        inner = move.sigma * (-self.r * move.h).exp()
        d = move.flow.velocity(move.x, move.sigma)
        d_inner = move.flow.velocity(move.x + per_sample(inner - move.sigma, d) * d, inner)
        slope = d + (d_inner - d) / (2 * self.r)
        return move.step(move.x + per_sample(move.sigma_next - move.sigma, d) * slope)


@dataclass(frozen=True)
class DPMpp2S:
    """DPM-Solver++(2S) (Lu et al. 2022, arXiv 2211.01095, Algorithm 1), with a second answer at an inner level.

    The inner level lies at the share r of the step in ln sigma.
    """

    kind: Literal["dpmpp_2s"] = "dpmpp_2s"
    r: float = 0.5
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    evaluations: ClassVar[int] = 2

    def __post_init__(self) -> None:
        _check_r(self.r)

    @property
    def order(self) -> int:
        return 2

    def step(
        self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int = MANY
    ) -> Step:
        move = plain(flow, x, t, t_next)
        denoised = move.flow.denoised(move.x, move.sigma)
        inner = _towards(move.x, denoised, self.r * move.h)
        denoised_inner = move.flow.denoised(inner, move.sigma * (-self.r * move.h).exp())
        extrapolated = denoised + (denoised_inner - denoised) / (2 * self.r)
        return move.step(_towards(move.x, extrapolated, move.h))


def _towards(x: Tensor, denoised: Tensor, h: Tensor) -> Tensor:
    """The exact step over h in ln(1 / sigma) for a denoiser that always answers `denoised`."""
    return per_sample((-h).exp(), x) * x - per_sample(torch.expm1(-h), x) * denoised


@dataclass(frozen=True)
class DPMpp2M:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, Algorithm 2), with one earlier answer of the denoiser.

    A sample without a past makes the first-order step, which is Euler's.
    """

    kind: Literal["dpmpp_2m"] = "dpmpp_2m"
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    evaluations: ClassVar[int] = 1

    @property
    def order(self) -> int:
        return 2

    def step(
        self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int = MANY
    ) -> Step:
        return _multistep(plain(flow, x, t, t_next), memory, depth=1, most=1, curvature=0.0)


@dataclass(frozen=True)
class DPMpp3M:
    """DPM-Solver++(3M), the multistep method of third order (Lu et al. 2022, arXiv 2211.01095): two earlier answers.

    form: as `published`, and in diffusers, the second difference lacks a factor 2, so that the order is 2; `corrected`
        has the factor, and order 3.
    lower_order_final: the step before the last is of order 2 (diffusers does so in runs of less than 15 steps).

    Samples with a shorter past make the step of DPM-Solver++(2M), or the first-order one.
    """

    kind: Literal["dpmpp_3m"] = "dpmpp_3m"
    form: Literal["published", "corrected"] = "published"
    lower_order_final: bool = True
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    evaluations: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.form not in ("published", "corrected"):
            raise ValueError(f"form: must be published or corrected (got {self.form})")

    @property
    def order(self) -> int:
        return 3 if self.form == "corrected" else 2

    def step(
        self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int = MANY
    ) -> Step:
        most = min(2, ahead) if self.lower_order_final else 2
        curvature = 1.0 if self.form == "corrected" else 0.5
        return _multistep(plain(flow, x, t, t_next), memory, depth=2, most=most, curvature=curvature)


def _multistep(move: Plain, memory: Memory, depth: int, most: int, curvature: float) -> Step:
    """A step with up to `depth` earlier answers; `curvature` is the share of the quadratic term's weight that is used.

    Two answers are combined as Algorithm 2 does it, with h/2 (1 - e^(-h)) for the weight of the slope, three with the
    exact weights.
    """
    denoised = move.flow.denoised(move.x, move.sigma)
    past = recall(memory, move.x, move.sigma, depth)
    length = past.length(most)
    nodes = [(move.sigma / level).log() for level in levels(move.sigma, past.sigmas, length)]
    moments = exponential_moments(move.h, depth + 1)
    if depth > 1:
        moments[2] = curvature * moments[2]
    weights = newton_weights(moments, nodes)
    weights[1] = torch.where(length == 1, 0.5 * move.h * moments[0], weights[1])
    integral = weighted(weights, differences([denoised, *past.values], nodes), length)
    x_next = per_sample((-move.h).exp(), move.x) * move.x + integral
    return move.step(x_next, past.push(denoised, move.sigma, move.sigma_next))
