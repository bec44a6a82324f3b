"""Stochasticity around any solver: noise is added before a step (churn) or between steps (Restart), and the solver
removes it again."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from pipeline.diffusion.flow import Flow
from pipeline.diffusion.preconditioning import per_sample
from pipeline.diffusion.seeds import CHURN, Noise, draw
from pipeline.diffusion.timesteps import EDMSteps, NoiseLevels


class Perturbed(NamedTuple):
    """The state after noise was added: x_hat of x's shape at time t_hat of shape (N,)."""

    x_hat: Tensor
    t_hat: Tensor


class StochasticityShape(Protocol):
    @property
    def S_noise(self) -> float:  # noqa: N802 (the paper's symbol)
        """The factor on all noise that is added on the way."""
        ...

    def walk(self, sigmas: Tensor, network: NoiseLevels) -> Tensor:
        """The levels in the order in which they are visited, of a grid sigma_0 > ... > sigma_N = 0. Where they rise,
        the loop adds noise.

        Raises:
            ValueError: they do not go with the grid or the network.
        """
        ...

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
    S_noise: ClassVar[float] = 1.0

    def walk(self, sigmas: Tensor, network: NoiseLevels) -> Tensor:
        return sigmas

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

    def walk(self, sigmas: Tensor, network: NoiseLevels) -> Tensor:
        return sigmas

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


@dataclass(frozen=True)
class Segment:
    """Levels that Restart walks again: from sigma_min up to sigma_max and down, K times.

    Args:
        sigma_min: where the climb begins: the level of the time grid that is nearest, but the first one and 0.
        sigma_max: where it ends.
        N_restart: levels of the way down, both ends among them: N_restart - 1 steps of the EDM grid.
        K: how often.
        rho: of that grid.
    """

    sigma_min: float = 0.06
    sigma_max: float = 0.3
    N_restart: int = 3
    K: int = 2
    rho: float = 7.0

    def __post_init__(self) -> None:
        EDMSteps(sigma_min=self.sigma_min, sigma_max=self.sigma_max, rho=self.rho)
        if self.N_restart < 2:
            raise ValueError(f"N_restart: must be at least 2 (got {self.N_restart})")
        if self.K < 0:
            raise ValueError(f"K: must be 0 or more (got {self.K})")


@dataclass(frozen=True)
class Restart:
    """Climbs back to a higher level by adding noise, and comes down again (Xu et al. 2023, arXiv 2306.14878).

    The default is the paper's for CIFAR-10 with N = 18: 43 evaluations by Heun's method.
    """

    kind: Literal["restart"] = "restart"
    segments: tuple[Segment, ...] = (Segment(),)
    S_noise: float = 1.0
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not self.S_noise >= 0:
            raise ValueError(f"S_noise: must be 0 or more (got {self.S_noise})")

    def walk(self, sigmas: Tensor, network: NoiseLevels) -> Tensor:
        bottoms = sigmas[1:-1]
        if not len(bottoms):
            raise ValueError("segments: a time grid of one step has no level to climb from; use more steps")
        nearest = [int((bottoms - segment.sigma_min).abs().argmin()) + 1 for segment in self.segments]
        parts = []
        for index in range(len(sigmas)):
            parts.append(sigmas[index : index + 1])
            for segment, bottom in zip(self.segments, nearest, strict=True):
                if bottom == index:
                    parts.append(_way_down(segment, sigmas[index], network).repeat(segment.K))
        return torch.cat(parts)

    def perturb(
        self, flow: Flow, x: Tensor, t: Tensor, num_steps: int, index: int, noise: Noise, network: NoiseLevels
    ) -> Perturbed:
        return Perturbed(x, t)


def _way_down(segment: Segment, bottom: Tensor, network: NoiseLevels) -> Tensor:
    """The levels of a segment from its top to the grid's own level at its bottom, float64 of shape (N_restart,)."""
    if segment.sigma_max > network.sigma_max:
        raise ValueError(
            f"segments: sigma_max = {segment.sigma_max:.6g} lies above what the network supports, "
            f"{network.sigma_max:.6g}; lower it"
        )
    top = segment.sigma_max
    if not float(bottom) < top:
        raise ValueError(f"segments: sigma_max = {top:.6g} is not above the grid's nearest level, {float(bottom):.6g}")
    between = EDMSteps(num_steps=segment.N_restart, sigma_min=float(bottom), sigma_max=top, rho=segment.rho)
    levels = network.round_sigma(between.levels(0.0, math.inf).to(bottom.device))
    levels = torch.cat([levels[:-1], bottom.reshape(1)])
    if not bool((levels.diff() < 0).all()):
        raise ValueError(
            f"segments: N_restart = {segment.N_restart} levels from {top:.6g} to {float(bottom):.6g} are too many for "
            "this network's own levels; use fewer"
        )
    return levels


Stochasticity = Deterministic | Churn | Restart
