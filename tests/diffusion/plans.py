"""Plans that the tests drive the real loop with."""

import torch
from torch import Tensor

from pipeline.diffusion.flow import Flow
from pipeline.diffusion.guidance import Denoise, Unguided
from pipeline.diffusion.preconditioning import per_sample
from pipeline.diffusion.sampling import Move, Plan, Sampler, integrate
from pipeline.diffusion.seeds import Noise
from pipeline.diffusion.solvers import Memory, Step
from pipeline.diffusion.timesteps import NoiseLevels


class Levels:
    """Every sample walks through its own list of noise levels, up or down; a level that repeats is a rest.

    Args:
        levels: float64 of shape (number of levels, N).
    """

    def __init__(self, levels: Tensor) -> None:
        self._levels = levels
        self._index = 0

    @property
    def num_steps(self) -> int:
        return len(self._levels) - 1

    @property
    def ahead(self) -> int:
        return self.num_steps - self._index

    def next(self) -> Move | None:
        if self._index == self.num_steps:
            return None
        self._index += 1
        return Move(self._levels[self._index - 1], self._levels[self._index])

    def judge(self, step: Step) -> Tensor | None:
        return None


def follow(
    denoise: Denoise, sampler: Sampler, plan: Plan, x: Tensor, seeds: Tensor, sigma: Tensor,
    sigma_end: Tensor | None = None, memory: Memory = (),
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Runs a plan through the real loop, from states x at sigma. States in and out have no scaling. Also the NFE."""
    count = torch.zeros_like(seeds)
    flow = Flow(denoise, sampler.schedule, sampler.scaling, Unguided(), None, count)
    scaled = per_sample(flow.s(flow.t(sigma)), x) * x
    end = integrate(flow, scaled, plan, sampler, Noise(seeds, x.shape[1:]), NoiseLevels(), None, memory)
    return (end if sigma_end is None else end / per_sample(flow.s(flow.t(sigma_end)), x)), count
