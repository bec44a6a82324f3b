"""Embedded Runge-Kutta pairs: two orders from the same evaluations, whose difference tells the error of a step.

They step in the schedule's own time, as the other one-step solvers do. The slope at the end of a step is the first one
of the next (FSAL): where time and state stand as the step before left them, it is taken from memory and costs nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.diffusion.flow import Flow
from pipeline.diffusion.preconditioning import per_sample
from pipeline.diffusion.seeds import Noise
from pipeline.diffusion.solvers.base import MANY, Memory, Step

_Row = tuple[float, ...]


def _first_slope(flow: Flow, x: Tensor, t: Tensor, memory: Memory) -> Tensor:
    """dx/dt at the start: remembered, unless the sample has no past or was moved in between (churn, a climb)."""
    if not memory:
        return flow.velocity(x, t)
    slope, t_end = memory
    unknown = (t_end != t).nonzero()[:, 0]
    if len(unknown) == len(t):
        return flow.velocity(x, t)
    if len(unknown):
        slope = slope.clone()
        slope[unknown] = flow.select(unknown).velocity(x[unknown], t[unknown])
    return slope


def _weighted(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    total = torch.zeros_like(slopes[0])
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            total = total + weight * slope
    return total


def _embedded_step(
    flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, c: _Row, a: tuple[_Row, ...], e: _Row
) -> Step:
    """A step by a tableau whose last row is the solution itself, at t_next.

    Args:
        c: the nodes, from the second stage on, without the last one, which is 1.
        a: the stages' weights, from the second stage on.
        e: weights of the error: those of the solution less those of the other order.
    """
    h = t_next - t
    slopes, state = [_first_slope(flow, x, t, memory)], x
    for node, row in zip((*c, 1.0), a, strict=True):
        state = x + per_sample(h, x) * _weighted(row, slopes)
        slopes.append(flow.velocity(state, t_next if node == 1 else t + node * h))
    return Step(state, (slopes[-1], t_next), per_sample(h, x) * _weighted(e, slopes))


@dataclass(frozen=True)
class BogackiShampine:
    """The 3(2) pair of Bogacki and Shampine 1989 (Applied Mathematics Letters 2(4)): the solution is of order 3."""

    kind: Literal["bogacki_shampine"] = "bogacki_shampine"
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    evaluations: ClassVar[int] = 3  # and one more at the first step
    error_order: ClassVar[int] = 3

    @property
    def order(self) -> int:
        return 3

    def step(
        self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int = MANY
    ) -> Step:
        return _embedded_step(flow, x, t, t_next, memory, _BS_NODES, _BS_STAGES, _BS_ERROR)


_BS_NODES = (1 / 2, 3 / 4)
_BS_STAGES = ((1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9))
_BS_ERROR = (2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8)


@dataclass(frozen=True)
class DormandPrince:
    """The 5(4) pair of Dormand and Prince 1980 (J. Comp. Appl. Math. 6(1)), `RK45`: the solution is of order 5."""

    kind: Literal["dormand_prince"] = "dormand_prince"
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    evaluations: ClassVar[int] = 6  # and one more at the first step
    error_order: ClassVar[int] = 5

    @property
    def order(self) -> int:
        return 5

    def step(
        self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int = MANY
    ) -> Step:
        return _embedded_step(flow, x, t, t_next, memory, _DP_NODES, _DP_STAGES, _DP_ERROR)


_DP_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0)
_DP_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_DP_ERROR = (
    35 / 384 - 5179 / 57600,
    0.0,
    500 / 1113 - 7571 / 16695,
    125 / 192 - 393 / 640,
    -2187 / 6784 + 92097 / 339200,
    11 / 84 - 187 / 2100,
    -1 / 40,
)
