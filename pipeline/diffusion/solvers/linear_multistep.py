"""Adams-Bashforth methods in sigma: the slope is extrapolated from earlier ones, with one evaluation a step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.diffusion.flow import Flow
from pipeline.diffusion.preconditioning import per_sample
from pipeline.diffusion.seeds import Noise
from pipeline.diffusion.solvers.base import MANY, Memory, Step
from pipeline.diffusion.solvers.multistep import differences, levels, newton_weights, recall, weighted
from pipeline.diffusion.solvers.plain import Plain, plain

# From the levels sigma, sigma_1, ... that a step knows and from its sigma_next: the nodes at which the slopes are
# interpolated, and the integral over the step of each of Newton's polynomials on them.
Rule = Callable[[Sequence[Tensor], Tensor], tuple[Sequence[Tensor], Sequence[Tensor]]]


def check_max_order(max_order: int, highest: int) -> None:
    if not 1 <= max_order <= highest:
        raise ValueError(f"max_order: must be from 1 to {highest} (got {max_order})")


def adams_bashforth(move: Plain, memory: Memory, max_order: int, rule: Rule, most: int = MANY) -> Step:
    """x + the integral of the polynomial through the slopes of this step and of at most `most` earlier ones."""
    d = move.flow.velocity(move.x, move.sigma)
    if max_order == 1:
        return move.step(move.x + per_sample(move.sigma_next - move.sigma, d) * d)
    past = recall(memory, move.x, move.sigma, max_order - 1)
    length = past.length(most)
    nodes, weights = rule(levels(move.sigma, past.sigmas, length), move.sigma_next)
    integral = weighted(weights, differences([d, *past.values], nodes), length)
    return move.step(move.x + integral, past.push(d, move.sigma, move.sigma_next))


def _fixed(sigmas: Sequence[Tensor], sigma_next: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """As if all steps were as long as this one: the coefficients 3/2, -1/2; 23/12, -16/12, 5/12; 55/24, ..."""
    step = sigma_next - sigmas[0]
    nodes = [torch.full_like(step, -float(number)) for number in range(len(sigmas))]
    return nodes, [share * step for share in (1.0, 1 / 2, 5 / 6, 9 / 4)]


def _variable(sigmas: Sequence[Tensor], sigma_next: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """The polynomial in sigma itself."""
    step = sigma_next - sigmas[0]
    nodes, moments, power = [sigma - sigmas[0] for sigma in sigmas], [], torch.ones_like(step)
    for number in range(1, len(sigmas) + 1):
        power = power * step
        moments.append(power / number)
    return nodes, newton_weights(moments, nodes)


@dataclass(frozen=True)
class IPNDM:
    """Improved PNDM (Zhang and Chen 2022, arXiv 2204.13902, after Liu et al. 2022, arXiv 2202.09778): Adams-Bashforth.

    Its coefficients are those of equal steps, whatever the steps are. On other grids that costs it all orders beyond
    the second, though not its quality with few steps. A sample starts with order 1 and gains one with every step.
    """

    kind: Literal["ipndm"] = "ipndm"
    max_order: int = 4
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    evaluations: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_max_order(self.max_order, 4)

    @property
    def order(self) -> int:
        return min(self.max_order, 2)

    def step(
        self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int = MANY
    ) -> Step:
        return adams_bashforth(plain(flow, x, t, t_next), memory, self.max_order, _fixed)


@dataclass(frozen=True)
class IPNDMv:
    """iPNDM with the coefficients of its own steps (after Zhang and Chen 2022, arXiv 2204.13902): Adams-Bashforth.

    In exact arithmetic this is LMS, and DEIS with a polynomial in sigma (rhoAB): results are published under each name.
    """

    kind: Literal["ipndm_v"] = "ipndm_v"
    max_order: int = 4
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    evaluations: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_max_order(self.max_order, 4)

    @property
    def order(self) -> int:
        return self.max_order

    def step(
        self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int = MANY
    ) -> Step:
        return adams_bashforth(plain(flow, x, t, t_next), memory, self.max_order, _variable)


@dataclass(frozen=True)
class LMS:
    """The linear multistep method in sigma (Adams-Bashforth on the flow of Karras et al. 2022, arXiv 2206.00364).

    A sample starts with order 1 and gains one with every step.
    """

    kind: Literal["lms"] = "lms"
    max_order: int = 4
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    evaluations: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_max_order(self.max_order, 4)

    @property
    def order(self) -> int:
        return self.max_order

    def step(
        self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int = MANY
    ) -> Step:
        return adams_bashforth(plain(flow, x, t, t_next), memory, self.max_order, _variable)
