"""UniPC: a step predicts, and the evaluation that the next step begins with corrects it, at no cost."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.diffusion.flow import Flow
from pipeline.diffusion.preconditioning import per_sample
from pipeline.diffusion.seeds import Noise
from pipeline.diffusion.solvers.base import MANY, Memory, Step
from pipeline.diffusion.solvers.linear_multistep import check_max_order
from pipeline.diffusion.solvers.multistep import (
    Past,
    differences,
    exponential_moments,
    levels,
    newton_weights,
    recall,
    weighted,
)
from pipeline.diffusion.solvers.plain import Plain, plain


@dataclass(frozen=True)
class UniPC:
    """UniPC-p (Zhao et al. 2023, arXiv 2302.04867), p = max_order, in terms of the predicted image.

    Its predictor has order p and its corrector p + 1. The corrector takes the denoiser's answer to the state that the
    predictor found, which is what the next step starts with, so it corrects that step's start. The last predicted state
    is not corrected, and on the linear schedule it need not be: the last step leads to the denoiser's answer to it.
    Where churn has added noise to a predicted state there is no correction.

    variant: B(h) = h (`bh1`) or e^h - 1 (`bh2`), which matters only where a single difference is weighted: in the
        predictor of order 2 and the corrector of the first step. The solution of the paper's linear equations in all
        other cases is the exact integral of the polynomial through all answers, which is how it is computed here.
    lower_order_final: the predictor of the step before the last has order 2 at most (as in diffusers).
    """

    kind: Literal["unipc"] = "unipc"
    variant: Literal["bh1", "bh2"] = "bh2"
    max_order: int = 3
    lower_order_final: bool = True
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    evaluations: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_max_order(self.max_order, 3)
        if self.variant not in ("bh1", "bh2"):
            raise ValueError(f"variant: must be bh1 or bh2 (got {self.variant})")

    @property
    def order(self) -> int:
        return self.max_order + 1

    def step(
        self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int = MANY
    ) -> Step:
        move = plain(flow, x, t, t_next)
        denoised = move.flow.denoised(move.x, move.sigma)
        past = recall(memory, move.x, move.sigma, self.max_order)
        start = self._corrected(move, denoised, past, memory[-1], self._most(ahead + 1)) if memory else move.x
        x_next = self._predicted(move, start, denoised, past, self._most(ahead))
        return move.step(x_next, (*past.push(denoised, move.sigma, move.sigma_next), start))

    def _most(self, ahead: int) -> int:
        """How many earlier answers the predictor may use in a step that so many others follow."""
        return min(self.max_order - 1, ahead) if self.lower_order_final else self.max_order - 1

    def _slope_weight(self, h: Tensor) -> Tensor:
        """Of a single divided difference: half of B(h), per unit of time."""
        return 0.5 * h * (h if self.variant == "bh1" else -torch.expm1(-h))

    def _predicted(self, move: Plain, start: Tensor, denoised: Tensor, past: Past, most: int) -> Tensor:
        length, sigmas = past.length(most), past.sigmas[:-1]
        nodes = [(move.sigma / level).log() for level in levels(move.sigma, sigmas, length)]
        weights = newton_weights(exponential_moments(move.h, self.max_order), nodes)
        if self.max_order > 1:
            weights[1] = torch.where(length == 1, self._slope_weight(move.h), weights[1])
        integral = weighted(weights, differences([denoised, *past.values[:-1]], nodes), length)
        return per_sample((-move.h).exp(), start) * start + integral

    def _corrected(self, move: Plain, denoised: Tensor, past: Past, start: Tensor, most: int) -> Tensor:
        """The state at this step's start, from that at the last one's and the answer to what that one predicted."""
        applies = past.sigmas[0] > 0
        sigma, *earlier = levels(move.sigma, past.sigmas, past.length(MANY))[1:]
        h, length = (sigma / move.sigma).log(), (past.length(most + 1) - 1).clamp(min=0)
        known = [(sigma / level).log() for level in levels(sigma, earlier, length)]
        nodes = [known[0], h, *known[1:]]  # the new answer before the old ones, which may be missing
        weights = newton_weights(exponential_moments(h, self.max_order + 1), nodes)
        weights[1] = torch.where(length == 0, self._slope_weight(h), weights[1])
        terms = differences([past.values[0], denoised, *past.values[1:]], nodes)
        corrected = per_sample((-h).exp(), start) * start + weighted(weights, terms, length + 1)
        return torch.where(per_sample(applies, move.x), corrected, move.x)
