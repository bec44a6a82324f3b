"""SA-Solver: a stochastic Adams predictor and corrector (Xue et al. 2023, arXiv 2309.05019), data prediction."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pipeline.diffusion.flow import Flow
from pipeline.diffusion.preconditioning import per_sample
from pipeline.diffusion.randomness import Beta, Window
from pipeline.diffusion.seeds import Noise
from pipeline.diffusion.solvers.base import MANY, Memory, Step
from pipeline.diffusion.solvers.plain import plain
from pipeline.diffusion.solvers.renoising import Evaluation, added, kept, recall, remember, weighted


@dataclass(frozen=True)
class SASolver:
    """Predicts from the last evaluations, and corrects each prediction with the one evaluation made there anyway.

    beta is tau^2 of the paper times sigma_dot / sigma; the paper's choice is a constant within a window of sigma. Over
    a step tau counts as constant, with the right integral. In x / s and lambda = -ln sigma, the linear part and the
    noise exact. The correction of a step is made at the beginning of the next one, with the noise of that step; a state
    that something else has moved in between (churn) is not corrected. As published, orders rise by one a step at the
    start and fall to what the remaining steps allow at the end, and order 2 has the weight that the authors found best.

    Args:
        predictor_order: 1 to 4.
        corrector_order: 0 (none) to 4; the number of evaluations it interpolates, that at the prediction among them.
    """

    kind: Literal["sa_solver"] = "sa_solver"
    predictor_order: int = 2
    corrector_order: int = 2
    beta: Beta = field(default_factory=Window)
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    evaluations: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.predictor_order not in (1, 2, 3, 4):
            raise ValueError(f"predictor_order: must be 1 to 4 (got {self.predictor_order})")
        if self.corrector_order not in (0, 1, 2, 3, 4):
            raise ValueError(f"corrector_order: must be 0 to 4 (got {self.corrector_order})")

    @property
    def order(self) -> int:
        return min(max(self.predictor_order, self.corrector_order), 2)

    def step(
        self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int = MANY
    ) -> Step:
        move = plain(flow, x, t, t_next)
        z, sigma, sigma_next = move.x, move.sigma, move.sigma_next
        denoised = flow.denoised(x, t)
        count = max(self.predictor_order, self.corrector_order, 2) - 1
        past = recall(memory[3:], count, denoised, move)
        if memory and self.corrector_order:
            z = _correct(z, denoised, sigma, past, memory[:3], min(self.corrector_order, ahead + 3))
        decay = self.beta.decay(sigma, sigma_next)
        base = per_sample(kept(sigma, sigma_next, decay), z) * z + added(sigma, sigma_next, decay, noise)
        here = Evaluation(denoised, sigma, torch.ones_like(sigma, dtype=torch.bool))
        z_next = base + _adams([here, *past[: min(self.predictor_order, ahead + 1) - 1]], sigma, move.h, decay)
        return move.step(z_next, (base, sigma_next, decay, *remember(memory[3:], count, denoised, sigma)))


def _correct(z: Tensor, denoised: Tensor, sigma: Tensor, past: list[Evaluation], last: Memory, order: int) -> Tensor:
    """The state z at sigma, by the last step made again with what the denoiser says at its end."""
    base, reached, decay = last
    start = past[0]
    untouched = start.known & ((reached / sigma - 1).abs() < 1e-9)
    here = Evaluation(denoised, sigma, untouched)
    corrected = base + _adams([here, *past[: order - 1]], start.sigma, (start.sigma / sigma).log(), decay)
    return torch.where(per_sample(untouched, z), corrected, z)


def _adams(evaluations: Sequence[Evaluation], start: Tensor, h: Tensor, decay: Tensor) -> Tensor:
    """What D contributes to a step of length h from the level `start`, D interpolated through these evaluations.

    Each sample uses as many of them, from the first on, as it knows.
    """
    a = 1 + decay / h
    nodes = [(start / evaluation.sigma).log() for evaluation in evaluations]
    weights = [torch.zeros_like(h) for _ in evaluations]
    for order in range(1, len(evaluations) + 1):
        of_order = _interpolate(nodes[:order], _moments(order, a, h))
        for i, weight in enumerate(of_order):
            weights[i] = torch.where(evaluations[order - 1].known, weight, weights[i])
    always = torch.ones_like(evaluations[0].known)
    total = torch.zeros_like(evaluations[0].denoised)
    for weight, evaluation in zip(weights, evaluations, strict=True):
        total = total + weighted(weight, evaluation.denoised, always)
    return total


def _moments(count: int, a: Tensor, h: Tensor) -> list[Tensor]:
    """The integrals over u in [0, h] of a exp(-a (h - u)) u^k, k < count.

    For an interpolation of order 2, a h^2 / 2 in place of the first: equal to O(h^3), and published so.
    """
    moments, power = [-(-a * h).expm1()], torch.ones_like(h)
    for k in range(1, count):
        power = power * h
        moments.append(power - k / a * moments[-1])
    return [moments[0], a * h**2 / 2] if count == 2 else moments


def _interpolate(nodes: Sequence[Tensor], moments: Sequence[Tensor]) -> list[Tensor]:
    """Weights w_i for which sum w_i f(u_i) is the integral, of these moments, of the polynomial through all f(u_i)."""
    weights = []
    for i, node in enumerate(nodes):
        coefficients = [torch.ones_like(node)]  # of the Lagrange polynomial that is 1 at this node, 0 at the others
        for other in (*nodes[:i], *nodes[i + 1 :]):
            raised = [torch.zeros_like(node), *coefficients]
            lowered = [*coefficients, torch.zeros_like(node)]
            coefficients = [(up - other * low) / (node - other) for up, low in zip(raised, lowered, strict=True)]
        weights.append(sum((c * m for c, m in zip(coefficients, moments, strict=True)), torch.zeros_like(node)))
    return weights
