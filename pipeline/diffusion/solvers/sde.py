"""Solvers of the paper's SDE (Karras et al. 2022, Eq. 6) with any beta(t)."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor

from pipeline.diffusion.flow import Flow
from pipeline.diffusion.preconditioning import per_sample
from pipeline.diffusion.randomness import Beta, Song
from pipeline.diffusion.seeds import Noise
from pipeline.diffusion.solvers.base import MANY, Memory, Step
from pipeline.diffusion.solvers.plain import plain
from pipeline.diffusion.solvers.renoising import renoise


@dataclass(frozen=True)
class EulerMaruyama:
    """x_next = x + h dx/dt + s (decay (D - x/s) + sqrt(2 decay) sigma n): Euler's step, decay and injection of noise.

    Eq. 6 of Karras et al. 2022 on the schedule and scaling that are set, everything taken at the beginning of the step;
    `decay` is the integral of beta over it. With beta = 0 it is Euler's method, bit for bit. The noise is that of the
    level that the step leaves, far too much on a coarse grid: `exponential_sde` has no such error.
    """

    kind: Literal["euler_maruyama"] = "euler_maruyama"
    beta: Beta = field(default_factory=Song)
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    evaluations: ClassVar[int] = 1

    @property
    def order(self) -> int:
        return 1

    def step(
        self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int = MANY
    ) -> Step:
        sigma, sigma_next, s = flow.sigma(t), flow.sigma(t_next), flow.s(t)
        denoised = flow.denoised(x, t)
        x_next = x + per_sample(t_next - t, x) * flow.slope(x, t, denoised)
        decay = self.beta.decay(sigma, sigma_next)
        if not bool((decay > 0).any()):
            return Step(x_next)
        decayed = per_sample(s * decay, x) * denoised - per_sample(decay, x) * x
        injected = per_sample(s * sigma * (2 * decay).sqrt(), x) * noise.between(sigma, sigma_next)
        return Step(x_next + decayed + injected)


@dataclass(frozen=True)
class ExponentialSDE:
    """The SDE with its linear part and its noise exact, and D constant (order 1) or by the midpoint rule (order 2).

    In x / s and lambda = -ln sigma (see `renoising`), so schedule and scaling make no difference. Order 1 costs one
    evaluation and is DDIM for beta = 0. Order 2 costs two, the second in the middle of the step in lambda, at a state
    whose noise lies on the same Brownian path as the whole step's: that is what makes it of weak order 2. With
    beta = `song` the two are SEEDS-1 and a method like SEEDS-2 (Gonzalez et al. 2023, arXiv 2305.14267).
    """

    kind: Literal["exponential_sde"] = "exponential_sde"
    order: int = 2
    beta: Beta = field(default_factory=Song)
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            raise ValueError(f"order: must be 1 or 2 (got {self.order})")

    @property
    def evaluations(self) -> int:
        return self.order

    def step(
        self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int = MANY
    ) -> Step:
        move = plain(flow, x, t, t_next)
        z, sigma, sigma_next = move.x, move.sigma, move.sigma_next
        denoised = flow.denoised(x, t)
        if self.order == 2:
            middle = (sigma * sigma_next).sqrt()
            z_middle = renoise(z, denoised, sigma, middle, self.beta.decay(sigma, middle), noise)
            denoised = move.flow.denoised(z_middle, middle)
        return move.step(renoise(z, denoised, sigma, sigma_next, self.beta.decay(sigma, sigma_next), noise))
