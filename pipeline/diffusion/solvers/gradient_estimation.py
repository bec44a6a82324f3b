"""Gradient estimation: Euler's method along a slope that the last one corrects."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.diffusion.flow import Flow
from pipeline.diffusion.preconditioning import per_sample
from pipeline.diffusion.seeds import Noise
from pipeline.diffusion.solvers.base import MANY, Memory, Step
from pipeline.diffusion.solvers.multistep import recall
from pipeline.diffusion.solvers.plain import plain


@dataclass(frozen=True)
class GradientEstimation:
    """Along gamma d + (1 - gamma) d_last, d being the slope in sigma (Permenter and Yuan 2024, arXiv 2306.04848).

    The first step, and any without a past, is Euler's, as all are with gamma 1. With 1.5 it is the Adams-Bashforth
    method of order 2 on equal steps; on others, and with any other gamma, it is of order 1.
    """

    kind: Literal["gradient_estimation"] = "gradient_estimation"
    gamma: float = 2.0
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    evaluations: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not 1 <= self.gamma <= 3:
            raise ValueError(f"gamma: must be from 1 to 3 (got {self.gamma})")

    @property
    def order(self) -> int:
        return 1

    def step(
        self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int = MANY
    ) -> Step:
        move = plain(flow, x, t, t_next)
        d = move.flow.velocity(move.x, move.sigma)
        past = recall(memory, move.x, move.sigma, 1)
        share = torch.where(past.sigmas[0] > 0, self.gamma - 1, 0.0)
        slope = d + per_sample(share, d) * (d - past.values[0])
        x_next = move.x + per_sample(move.sigma_next - move.sigma, d) * slope
        return move.step(x_next, past.push(d, move.sigma, move.sigma_next))
