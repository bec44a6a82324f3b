"""A time grid computed from the network itself: dynamic programming on the curvature of a few trajectories.

Chen, Zhou, Shen, Wang, Chen, Lyu, "On the trajectory regularity of ODE-based diffusion sampling" (GITS, arXiv
2405.11326). Trajectories of different samples bend alike, so a handful of them tells where steps are needed: the cost
of a step from sigma_i to sigma_j is how far Euler's method lands from the trajectory's own state at sigma_j, and the
best grid of N steps is the cheapest path of N edges from sigma_max to 0.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.diffusion.guidance import Denoise
from pipeline.diffusion.preconditioning import per_sample
from pipeline.diffusion.sampling import Sampler, sample
from pipeline.diffusion.schedules import Linear, Unscaled
from pipeline.diffusion.seeds import INITIAL, Noise, draw
from pipeline.diffusion.timesteps import NoiseLevels, grid


class StepCosts(NamedTuple):
    """What single steps cost on the trajectories of some seeds.

    Args:
        sigmas: the levels of a fine grid, float64 of shape (M + 1,), the last one 0.
        costs: of shape (M + 1, M + 1): the mean distance by which Euler's step from level i misses the state at level j
            (Euclidean over a sample's elements); infinite where j <= i.
        evaluations: network evaluations that were spent on each sample.
    """

    sigmas: Tensor
    costs: Tensor
    evaluations: int


def step_costs(
    denoise: Denoise, network: NoiseLevels, sampler: Sampler, seeds: Tensor, shape: tuple[int, ...],
    labels: Tensor | None = None, guide: Denoise | None = None,
) -> StepCosts:  # fmt: skip
    """Follows the trajectories of a batch on a fine grid and measures every step between two of its levels.

    Args:
        sampler: the fine sampler, deterministic, on the linear schedule without scaling.

    Others as in `sample`.

    Raises:
        ValueError: the sampler's states are not y + sigma n, or the grid does not go with the network.
    """
    if sampler.schedule != Linear() or sampler.scaling != Unscaled():
        raise ValueError("schedule: trajectories are measured on the linear schedule without scaling")
    sigmas = grid(sampler.timesteps, network)
    states = [sigmas[0] * Noise(seeds, shape).normal(draw(INITIAL, 0))]
    samples = sample(denoise, network, sampler, seeds, shape, labels, lambda _move, x, _sigma: states.append(x), guide)
    costs = torch.full((len(sigmas), len(sigmas)), torch.inf, dtype=torch.float64)
    with torch.no_grad():
        for i in range(len(sigmas) - 1):
            sigma = sigmas[i].expand(len(seeds))
            denoised = sampler.guidance.denoise(denoise, states[i], sigma, labels, guide).denoised
            slope = (states[i] - denoised) / per_sample(sigma, denoised)
            for j in range(i + 1, len(sigmas)):
                missed = states[i] + (sigmas[j] - sigmas[i]) * slope - states[j]
                costs[i, j] = missed.flatten(1).square().sum(dim=1).sqrt().mean()
    return StepCosts(sigmas, costs, int(samples.nfe.max()) + len(sigmas) - 1)


def cheapest_grid(found: StepCosts, num_steps: int, coefficient: float = 1.15) -> tuple[float, ...]:
    """The N levels before the final zero whose path costs least.

    Args:
        num_steps: N, at most the steps of the fine grid.
        coefficient: the cost of what follows a step is weighted by it once more at every step, so that errors made late
            count more (the paper's gamma, 1.15).

    Raises:
        ValueError: more steps than the fine grid has.
    """
    costs, last = found.costs, len(found.sigmas) - 1
    if not 1 <= num_steps <= last:
        raise ValueError(f"num_steps: must be between 1 and the fine grid's {last} (got {num_steps})")
    to_go = torch.full((last + 1,), torch.inf, dtype=torch.float64)
    to_go[last] = 0.0
    choices: list[Tensor] = []
    for _ in range(num_steps):
        to_go, choice = (costs + coefficient * to_go).min(dim=1)
        choices.append(choice)
    index, path = 0, []
    for choice in reversed(choices):
        path.append(float(found.sigmas[index]))
        index = int(choice[index])
    return tuple(path)


def mean_costs(parts: Sequence[StepCosts]) -> StepCosts:
    """The costs over several batches of equal size."""
    return parts[0]._replace(costs=torch.stack([part.costs for part in parts]).mean(dim=0))
