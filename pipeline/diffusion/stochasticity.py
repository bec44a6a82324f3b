"""Stochasticity around any solver: noise is added before a step, and the step removes it again."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from pipeline.diffusion.flow import Flow
from pipeline.diffusion.preconditioning import per_sample
from pipeline.diffusion.seeds import CHURN, Noise, draw
from pipeline.diffusion.timesteps import NoiseLevels


class Perturbed(NamedTuple):
    """The state after noise was added: x_hat of x's shape at time t_hat of shape (N,)."""

    x_hat: Tensor
    t_hat: Tensor


class StochasticityShape(Protocol):
    def perturb(
        self, flow: Flow, x: Tensor, t: Tensor, num_steps: int, index: int, noise: Noise, network: NoiseLevels
    ) -> Perturbed:
        """Adds the noise that belongs to step `index` of `num_steps`."""
        ...


@dataclass(frozen=True)
class Deterministic:
    """No noise beyond the first: the probability flow."""

    kind: Literal["none"] = "none"
    revision: ClassVar[int] = 1

    def perturb(
        self, flow: Flow, x: Tensor, t: Tensor, num_steps: int, index: int, noise: Noise, network: NoiseLevels
    ) -> Perturbed:
        return Perturbed(x, t)


@dataclass(frozen=True)
class Churn:
    """Raises sigma by the factor 1 + gamma before a step (Karras et al. 2022, Algorithm 2).

    gamma = min(S_churn / N, sqrt(2) - 1) where S_min <= sigma <= S_max, else 0.
    """

    kind: Literal["churn"] = "churn"
    S_churn: float = 40.0
    S_min: float = 0.0
    S_max: float = math.inf
    S_noise: float = 1.0
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not self.S_churn >= 0:
            raise ValueError(f"S_churn: must be 0 or more (got {self.S_churn})")
        if not self.S_noise >= 0:
            raise ValueError(f"S_noise: must be 0 or more (got {self.S_noise})")
        if not 0 <= self.S_min <= self.S_max:
            raise ValueError(f"S_min: must be 0 or more and at most S_max (got {self.S_min} and {self.S_max})")

    def perturb(
        self, flow: Flow, x: Tensor, t: Tensor, num_steps: int, index: int, noise: Noise, network: NoiseLevels
    ) -> Perturbed:
        sigma = flow.sigma(t)
        gamma = min(self.S_churn / num_steps, math.sqrt(2) - 1)
        active = (sigma >= self.S_min) & (sigma <= self.S_max) & (sigma < network.sigma_max)
        if gamma == 0 or not bool(active.any()):
            return Perturbed(x, t)
        # Increase noise temporarily: t_hat, and x_hat with the noise that leads there.
        raised = network.round_sigma((sigma * (1 + gamma)).clamp(max=network.sigma_max))
        t_hat = torch.where(active, flow.t(raised), t)
        sigma_hat, s_hat = flow.sigma(t_hat), flow.s(t_hat)
        added = (sigma_hat**2 - sigma**2).clamp(min=0).sqrt() * s_hat * self.S_noise
        epsilon = noise.normal(draw(CHURN, index))
        x_hat = per_sample(s_hat / flow.s(t), x) * x + per_sample(added, x) * epsilon
        return Perturbed(torch.where(per_sample(active, x), x_hat, x), t_hat)


Stochasticity = Deterministic | Churn
