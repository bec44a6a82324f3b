"""One-step solvers of the probability flow: Euler, and the family of second-order two-stage Runge-Kutta methods."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from pipeline.diffusion.flow import Flow
from pipeline.diffusion.preconditioning import per_sample
from pipeline.diffusion.seeds import Noise
from pipeline.diffusion.solvers.base import MANY, Memory, Step


@dataclass(frozen=True)
class Euler:
    """x_next = x + h d. On the linear schedule this is DDIM with eta = 0 (Song et al. 2020, arXiv 2010.02502)."""

    kind: Literal["euler"] = "euler"
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    evaluations: ClassVar[int] = 1

    @property
    def order(self) -> int:
        return 1

    def step(
        self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int = MANY
    ) -> Step:
        return Step(x + per_sample(t_next - t, x) * flow.velocity(x, t))


def _alpha_step(flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, alpha: float) -> Step:
    """Algorithm 3 of Karras et al. 2022: one evaluation at t, one at t + alpha h."""
    h = t_next - t
    d_cur = flow.velocity(x, t)
    x_prime = x + per_sample(alpha * h, x) * d_cur
    # t + 1 * (t_next - t) may miss t_next by a rounding error.
    d_prime = flow.velocity(x_prime, t_next if alpha == 1 else t + alpha * h)
    weight = 1 / (2 * alpha)
    return Step(x + per_sample(h, x) * ((1 - weight) * d_cur + weight * d_prime))


@dataclass(frozen=True)
class Heun:
    """The trapezoidal corrector, alpha = 1 (Karras et al. 2022, Algorithm 1)."""

    kind: Literal["heun"] = "heun"
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    evaluations: ClassVar[int] = 2

    @property
    def order(self) -> int:
        return 2

    def step(
        self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int = MANY
    ) -> Step:
        return _alpha_step(flow, x, t, t_next, 1.0)


@dataclass(frozen=True)
class Midpoint:
    """The midpoint rule, alpha = 1/2 (Karras et al. 2022, Algorithm 3)."""

    kind: Literal["midpoint"] = "midpoint"
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    evaluations: ClassVar[int] = 2

    @property
    def order(self) -> int:
        return 2

    def step(
        self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int = MANY
    ) -> Step:
        return _alpha_step(flow, x, t, t_next, 0.5)


@dataclass(frozen=True)
class Ralston:
    """Ralston's method, alpha = 2/3: the least error bound of the family (Karras et al. 2022, Algorithm 3)."""

    kind: Literal["ralston"] = "ralston"
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    evaluations: ClassVar[int] = 2

    @property
    def order(self) -> int:
        return 2

    def step(
        self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int = MANY
    ) -> Step:
        return _alpha_step(flow, x, t, t_next, 2 / 3)


@dataclass(frozen=True)
class Alpha:
    """Any other member of the second-order family (Karras et al. 2022, Algorithm 3)."""

    kind: Literal["alpha"] = "alpha"
    alpha: float = 1.0
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    evaluations: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise ValueError(f"alpha: must be above 0 and at most 1 (got {self.alpha})")

    @property
    def order(self) -> int:
        return 2

    def step(
        self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int = MANY
    ) -> Step:
        return _alpha_step(flow, x, t, t_next, self.alpha)
