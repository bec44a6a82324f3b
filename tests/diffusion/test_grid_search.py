"""The optimized grid against a search of all grids, and against the grid it should beat."""

import math
from itertools import combinations, pairwise

import pytest
import torch

from pipeline.diffusion.grid_search import StepCosts, cheapest_grid, mean_costs, step_costs
from pipeline.diffusion.sampling import Sampler, sample
from pipeline.diffusion.schedules import VP
from pipeline.diffusion.solvers import Euler, Heun
from pipeline.diffusion.timesteps import EDMSteps, ExplicitSteps, NoiseLevels, grid
from tests.diffusion.mixture import Mixture

MIXTURE = Mixture(std=0.1)
ANY = NoiseLevels()
SHAPE = (1, 2, 4)
FINE = Sampler(timesteps=EDMSteps(num_steps=60), solver=Heun())


def random_costs(num_levels: int) -> StepCosts:
    torch.manual_seed(0)
    costs = torch.rand(num_levels + 1, num_levels + 1, dtype=torch.float64)
    below = torch.ones_like(costs).tril().bool()
    sigmas = torch.arange(num_levels, -1, -1, dtype=torch.float64)
    return StepCosts(sigmas, costs.masked_fill(below, torch.inf), 0)


@pytest.mark.parametrize("coefficient", [1.0, 1.15, 3.0])
@pytest.mark.parametrize("num_steps", [1, 2, 4, 9])
def test_the_path_is_the_cheapest_of_all_paths(num_steps, coefficient):
    found = random_costs(9)

    def cost(path: tuple[int, ...]) -> float:
        return sum(coefficient**k * float(found.costs[i, j]) for k, (i, j) in enumerate(pairwise(path)))

    paths = [(0, *middle, 9) for middle in combinations(range(1, 9), num_steps - 1)]
    best = min(paths, key=cost)
    assert cheapest_grid(found, num_steps, coefficient) == tuple(9.0 - index for index in best[:-1])


def test_a_step_costs_what_eulers_method_misses_the_trajectory_by():
    seeds = torch.arange(3)
    found = step_costs(MIXTURE.denoise, ANY, FINE, seeds, SHAPE)
    sigmas = grid(FINE.timesteps, ANY)
    assert torch.equal(found.sigmas, sigmas)
    states = {}
    sample(MIXTURE.denoise, ANY, FINE, seeds, SHAPE, on_move=lambda move, x, _: states.__setitem__(move + 1, x))
    x, sigma, sigma_next = states[20], float(sigmas[20]), float(sigmas[31])
    slope = (x - MIXTURE.denoise(x, sigmas[20].expand(3))) / sigma
    missed = (x + (sigma_next - sigma) * slope - states[31]).flatten(1)
    expected = sum(math.sqrt(sum(value**2 for value in row)) for row in missed.tolist()) / 3
    assert float(found.costs[20, 31]) == pytest.approx(expected, rel=1e-12)
    assert bool(found.costs.tril().isinf().any())
    assert found.evaluations == (2 * 60 - 1) + 60


def test_on_held_out_seeds_the_optimized_grid_is_nearer_to_the_trajectory_than_edms():
    found = step_costs(MIXTURE.denoise, ANY, FINE, torch.arange(1000, 1064), SHAPE)
    seeds = torch.arange(64)
    reference = sample(MIXTURE.denoise, ANY, Sampler(timesteps=EDMSteps(num_steps=400)), seeds, SHAPE).images

    def error(timesteps) -> float:
        images = sample(MIXTURE.denoise, ANY, Sampler(timesteps=timesteps, solver=Euler()), seeds, SHAPE).images
        return float((images - reference).square().mean().sqrt())

    for num_steps in (6, 8, 12):
        assert error(ExplicitSteps(sigmas=cheapest_grid(found, num_steps))) < 0.6 * error(EDMSteps(num_steps=num_steps))


def test_batches_are_averaged():
    one, two = random_costs(3), random_costs(3)
    two = two._replace(costs=3 * two.costs)
    assert torch.allclose(mean_costs([one, two]).costs[0, 1:], 2 * one.costs[0, 1:])


@pytest.mark.parametrize("num_steps", [0, 10])
def test_more_steps_than_the_fine_grid_has_are_refused(num_steps):
    with pytest.raises(ValueError, match=r"^num_steps: .*\(got "):
        cheapest_grid(random_costs(9), num_steps)


def test_another_schedule_is_refused():
    with pytest.raises(ValueError, match=r"^schedule: "):
        step_costs(MIXTURE.denoise, ANY, Sampler(schedule=VP()), torch.arange(1), SHAPE)
