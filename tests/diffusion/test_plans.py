"""What the loop promises to samplers to come: adaptive steps, Restart, multistep memory, each sample by itself.

The plans and solvers are the tests' own; the loop is the real one.
"""

import math
from dataclasses import dataclass, replace
from itertools import pairwise, product

import pytest
import torch
from torch import Tensor

from pipeline.diffusion.flow import Flow
from pipeline.diffusion.preconditioning import per_sample
from pipeline.diffusion.sampling import Move, Sampler
from pipeline.diffusion.schedules import VE, VP, Linear, Unscaled, VPScaling
from pipeline.diffusion.seeds import INITIAL, RENOISE, Noise, draw, normal
from pipeline.diffusion.solvers import MANY, Euler, Heun, Memory, Step
from pipeline.diffusion.stochasticity import Churn
from pipeline.diffusion.timesteps import EDMSteps, NoiseLevels, grid
from tests.diffusion.mixture import Mixture
from tests.diffusion.parts import SOLVERS, in_plain_coordinates
from tests.diffusion.plans import Levels, follow

MIXTURE = Mixture(std=0.5)
COUPLES = [(Linear(), Unscaled()), (VP(), VPScaling()), (VE(), Unscaled())]
COUPLE_IDS = ["linear", "vp", "ve"]


def start(seeds: Tensor, sigma: float, shape: tuple[int, ...] = (1, 2, 2)) -> Tensor:
    return sigma * normal(seeds, draw(INITIAL, 0), shape)


def constant(value: float, like: Tensor) -> Tensor:
    return torch.full((len(like),), value, dtype=torch.float64)


# --- adaptive steps


@dataclass(frozen=True)
class EmbeddedHeun:
    """Heun's step; the difference from Euler's is the error."""

    order: int = 2

    def step(self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int) -> Step:
        h = per_sample(t_next - t, x)
        d = flow.velocity(x, t)
        euler = x + h * d
        heun = x + h * (d + flow.velocity(euler, t_next)) / 2
        return Step(heun, (), heun - euler)


class Adaptive:
    """Every sample has its own step in ln sigma, controlled by its own error; too large ones are rejected."""

    num_steps = 100
    ahead = MANY

    def __init__(self, num_samples: int, sigma_max: float, sigma_min: float, tolerance: float) -> None:
        self.sigma = torch.full((num_samples,), sigma_max, dtype=torch.float64)
        self.length = torch.full_like(self.sigma, 0.5)
        self.attempts = torch.zeros(num_samples, dtype=torch.int64)
        self.rejected = torch.zeros(num_samples, dtype=torch.int64)
        self._sigma_min, self._tolerance = sigma_min, tolerance

    def next(self) -> Move | None:
        if bool((self.sigma <= self._sigma_min).all()):
            return None
        shorter = (self.sigma * torch.exp(-self.length)).clamp(min=self._sigma_min)
        self._target = torch.where(self.sigma > self._sigma_min, shorter, self.sigma)
        return Move(self.sigma, self._target)

    def judge(self, step: Step) -> Tensor | None:
        moving = self._target < self.sigma
        norm = step.error.flatten(1).square().mean(dim=1).sqrt() / self._tolerance
        accepted = norm <= 1
        self.attempts += moving
        self.rejected += moving & ~accepted
        self.sigma = torch.where(accepted, self._target, self.sigma)
        self.length = self.length * (0.9 / norm.clamp(min=1e-9).sqrt()).clamp(0.2, 2.0)
        return accepted


def adapt(seeds: Tensor, couple, tolerance: float, stochasticity=None) -> tuple[Tensor, Tensor, Adaptive]:
    sampler = Sampler(solver=EmbeddedHeun(), schedule=couple[0], scaling=couple[1])
    if stochasticity is not None:
        sampler = Sampler(solver=EmbeddedHeun(), schedule=couple[0], scaling=couple[1], stochasticity=stochasticity)
    plan = Adaptive(len(seeds), 80.0, 0.01, tolerance)
    ends = constant(80.0, seeds), constant(0.01, seeds)
    end, nfe = follow(MIXTURE.denoise, sampler, plan, start(seeds, 80.0), seeds, *ends)
    return end, nfe, plan


@pytest.mark.parametrize("couple", COUPLES, ids=COUPLE_IDS)
def test_adaptive_steps_reach_the_exact_map_and_are_counted_for_each_sample(couple):
    seeds = torch.arange(24)
    end, nfe, plan = adapt(seeds, couple, 1e-4)
    exact = MIXTURE.transport(start(seeds, 80.0), torch.tensor(80.0).double(), torch.tensor(0.01).double())
    assert (end - exact).abs().max().item() < 2e-3
    assert nfe.tolist() == (2 * plan.attempts).tolist()
    assert plan.rejected.sum().item() > 0, "the test must see rejections"
    assert nfe.unique().numel() > 3, "and samples that differ in cost"


@pytest.mark.parametrize("couple", COUPLES, ids=COUPLE_IDS)
def test_a_tighter_tolerance_is_nearer(couple):
    seeds = torch.arange(12)
    exact = MIXTURE.transport(start(seeds, 80.0), torch.tensor(80.0).double(), torch.tensor(0.01).double())
    errors, costs = [], []
    for tolerance in (1e-2, 1e-3, 1e-4):
        end, nfe, _ = adapt(seeds, couple, tolerance)
        errors.append((end - exact).abs().max().item())
        costs.append(nfe.double().mean().item())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert costs[0] < costs[1] < costs[2]


@pytest.mark.parametrize(
    "stochasticity", [None, Churn(S_churn=0.5, S_min=0.1, S_max=5.0)], ids=["deterministic", "churn"]
)
@pytest.mark.parametrize("couple", COUPLES, ids=COUPLE_IDS)
def test_an_adaptive_sample_does_not_depend_on_its_companions(couple, stochasticity):
    seeds = torch.tensor([7, 1, 2**40, 30, 31, 32, 33])
    end, nfe, _ = adapt(seeds, couple, 1e-2, stochasticity)
    for chosen in ([0], [2], [6, 1, 3]):
        alone, alone_nfe, _ = adapt(seeds[chosen], couple, 1e-2, stochasticity)
        assert torch.equal(alone, end[chosen])
        assert torch.equal(alone_nfe, nfe[chosen])


# --- climbing


def walk(levels: Tensor, seeds: Tensor, sampler: Sampler, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    x = per_sample(levels[0], torch.empty(1, *shape)) * normal(seeds, draw(INITIAL, 0), shape)
    return follow(MIXTURE.denoise, sampler, Levels(levels), x, seeds, levels[0])


@pytest.mark.parametrize("couple", COUPLES, ids=COUPLE_IDS)
def test_climbing_and_coming_down_again_leaves_the_marginals_right(couple):
    """Restart (Xu et al. 2023): from 0.1 up to 3 and down again, three times."""
    down = grid(EDMSteps(num_steps=60), NoiseLevels())
    up_and_down = grid(EDMSteps(num_steps=24, sigma_min=0.1, sigma_max=3.0), NoiseLevels())[:-1]
    before, after = down[down > 0.1], down[down < 0.1]
    levels = torch.cat([before, torch.tensor([0.1]).double(), up_and_down, up_and_down, up_and_down, after])
    levels = levels.round(decimals=12)  # the repeated 0.1 is a rest, not a step of a rounding error
    sampler = Sampler(solver=Heun(), schedule=couple[0], scaling=couple[1])
    seeds = torch.arange(3)
    images, nfe = walk(levels[:, None].expand(-1, 3), seeds, sampler, (1, 80, 100))
    assert images.std().item() == pytest.approx(MIXTURE.total_std, rel=0.015)
    assert images.mean().abs().item() < 0.04
    assert (images**4).mean().item() == pytest.approx(1 + 6 * 0.5**2 + 3 * 0.5**4, rel=0.05)
    steps = len(before) + 3 * 23 + len(after)  # a climb costs nothing
    assert nfe.tolist() == [2 * (steps - 1) + 1] * 3
    once, _ = walk(down[:, None].expand(-1, 3), seeds, sampler, (1, 80, 100))
    correlation = torch.corrcoef(torch.stack([images.flatten(), once.flatten()]))[0, 1].item()
    assert correlation < 0.9, "the noise was made anew"


# --- memory


@dataclass(frozen=True)
class AdamsBashforth2:
    """x + h ((1 + w/2) f_n - w/2 f_(n-1)), w = h / h_before; a sample without a past takes Euler's step."""

    order: int = 2

    def step(self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int) -> Step:
        h, d = t_next - t, flow.velocity(x, t)
        d_before, h_before = memory or (torch.zeros_like(x), torch.zeros_like(t))
        half = torch.where(h_before == 0, 0.0, h / torch.where(h_before == 0, 1.0, h_before) / 2)
        return Step(x + per_sample(h, x) * ((1 + per_sample(half, x)) * d - per_sample(half, x) * d_before), (d, h))


# These plans don't tell how many steps are ahead as a grid does, so nothing may depend on it.
PLAIN = [
    replace(solver, lower_order_final=False) if hasattr(solver, "lower_order_final") else solver
    for solver in SOLVERS
    if in_plain_coordinates(solver)
]
START = torch.tensor([-2.0, -1.2, -0.5, -0.1, 0.3, 0.8, 1.6], dtype=torch.float64)


@pytest.mark.parametrize("couple", COUPLES, ids=COUPLE_IDS)
def test_a_solver_with_memory_keeps_its_order(couple):
    errors = []
    for num_levels in (129, 513):
        sigmas = grid(EDMSteps(num_steps=num_levels), NoiseLevels())[:-1]
        first, last = sigmas[:1], sigmas[-1:]
        x = (first * START).reshape(1, 1, 1, -1)
        sampler = Sampler(solver=AdamsBashforth2(), schedule=couple[0], scaling=couple[1])
        end, nfe = follow(MIXTURE.denoise, sampler, Levels(sigmas[:, None]), x, torch.arange(1), first, last)
        assert nfe.tolist() == [num_levels - 1]
        errors.append((end - MIXTURE.transport(x, first, last)).abs().max().item())
    assert math.log(errors[0] / errors[1]) / math.log(4) == pytest.approx(2, abs=0.15), errors


class Stubborn(Levels):
    """Rejects some attempts of some samples, and tries the same step again until it passes."""

    def __init__(self, sigmas: Tensor, num_samples: int) -> None:
        super().__init__(sigmas)
        self._sigmas = sigmas
        self._at = torch.zeros(num_samples, dtype=torch.int64)
        self._sample = torch.arange(num_samples)
        self._attempt = 0
        self.rejected = torch.zeros(num_samples, dtype=torch.int64)

    def next(self) -> Move | None:
        if bool((self._at == self.num_steps).all()):
            return None
        return Move(self._sigmas[self._at], self._sigmas[(self._at + 1).clamp(max=self.num_steps)])

    def judge(self, step: Step) -> Tensor | None:
        moving = self._at < self.num_steps
        # Sample 0 never; sample 1 the first attempt, its last one too; sample 2 every second one; ...
        accepted = (self._attempt + self._sample) % (self._sample + 1) == self._sample
        accepted |= self._sample == 0
        self._attempt += 1
        self.rejected += moving & ~accepted
        self._at += moving & accepted
        return accepted


@pytest.mark.parametrize(
    ("couple", "solver"), [*product(COUPLES, [AdamsBashforth2(), Heun()]), *product(COUPLES[:1], PLAIN)], ids=repr
)
def test_a_rejected_step_leaves_state_and_memory_as_they_were(couple, solver):
    """So a step tried again gives the same bits, whatever is rejected: the first step, the last one, or between."""
    sigmas = grid(EDMSteps(num_steps=9), NoiseLevels())
    seeds = torch.arange(5)
    sampler = Sampler(solver=solver, schedule=couple[0], scaling=couple[1])
    x, first = start(seeds, 80.0), constant(80.0, seeds)
    plain, plain_nfe = follow(MIXTURE.denoise, sampler, Levels(sigmas[:, None].expand(-1, 5)), x, seeds, first)
    plan = Stubborn(sigmas, 5)
    stubborn, nfe = follow(MIXTURE.denoise, sampler, plan, x, seeds, first)
    assert torch.equal(stubborn, plain)
    assert plan.rejected[0] == 0
    assert bool((plan.rejected[1:] > 0).all())
    assert bool((nfe[1:] > plain_nfe[1:]).all())


def test_a_last_step_that_is_rejected_everywhere_is_tried_again():
    class RejectsTheLastOnce(Stubborn):
        def judge(self, step: Step) -> Tensor | None:
            self._attempt += 1
            accepted = torch.ones_like(self._at, dtype=torch.bool)
            if bool((self._at == self.num_steps - 1).all()) and not self.rejected.any():
                accepted = ~accepted
                self.rejected += 1
            self._at += accepted
            return accepted

    sigmas = grid(EDMSteps(num_steps=5), NoiseLevels())
    seeds = torch.arange(3)
    sampler = Sampler(solver=AdamsBashforth2())
    x, first = start(seeds, 80.0), constant(80.0, seeds)
    plain, nfe = follow(MIXTURE.denoise, sampler, Levels(sigmas[:, None].expand(-1, 3)), x, seeds, first)
    again, nfe_again = follow(MIXTURE.denoise, sampler, RejectsTheLastOnce(sigmas, 3), x, seeds, first)
    assert torch.equal(again, plain)
    assert nfe_again.tolist() == (nfe + 1).tolist()


@pytest.mark.parametrize(
    ("couple", "solver"),
    [*product(COUPLES, [Euler(), Heun(), AdamsBashforth2()]), *product(COUPLES[:1], PLAIN)],
    ids=repr,
)
def test_in_one_move_some_climb_some_step_some_rest_and_some_arrive(couple, solver):
    """Each sample has its own way, and takes it as if it were alone."""
    ways = [
        [40.0, 10.0, 3.0, 9.0, 4.0, 1.0, 0.5, 0.0],
        [40.0, 20.0, 10.0, 5.0, 2.0, 1.0, 0.2, 0.1],
        [40.0, 8.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [40.0, 30.0, 35.0, 20.0, 25.0, 6.0, 0.0, 0.0],
        [40.0, 40.0, 12.0, 12.0, 3.0, 1.0, 1.0, 0.0],
    ]
    levels = torch.tensor(ways, dtype=torch.float64).T
    seeds = torch.arange(5)
    sampler = Sampler(solver=solver, schedule=couple[0], scaling=couple[1])
    together, nfe = walk(levels, seeds, sampler, (1, 2, 3))
    evaluations = getattr(solver, "evaluations", 1)
    for index, way in enumerate(ways):
        alone, alone_nfe = walk(levels[:, index : index + 1], seeds[index : index + 1], sampler, (1, 2, 3))
        assert torch.equal(alone[0], together[index]), f"way {index}"
        steps = [(a, b) for a, b in pairwise(way) if b < a]
        expected = sum(1 if b == 0 else evaluations for _, b in steps)
        assert nfe[index].item() == alone_nfe[0].item() == expected
    assert bool(together.isfinite().all())


@pytest.mark.parametrize("solver", [AdamsBashforth2(), *PLAIN], ids=repr)
def test_a_climb_forgets_the_past(solver):
    """After a climb a solver with memory starts anew: as if it had begun there."""
    levels = torch.tensor([[40.0], [10.0], [3.0], [9.0], [4.0], [1.0]], dtype=torch.float64)
    seeds = torch.tensor([3])
    sampler = Sampler(solver=solver)
    end, _ = walk(levels, seeds, sampler, (1, 2, 3))
    x = levels[0] * normal(seeds, draw(INITIAL, 0), (1, 2, 3))
    at_three, _ = follow(MIXTURE.denoise, sampler, Levels(levels[:3]), x, seeds, levels[0])
    climbed = at_three + math.sqrt(9.0**2 - 3.0**2) * normal(seeds, draw(RENOISE, 2), (1, 2, 3))
    anew, _ = follow(MIXTURE.denoise, sampler, Levels(levels[3:]), climbed, seeds, levels[3])
    torch.testing.assert_close(end, anew, rtol=1e-14, atol=1e-14)
