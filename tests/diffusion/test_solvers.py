"""Solvers against the exact flow of the mixture, and against plainly written loops."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from pipeline.diffusion.flow import Flow
from pipeline.diffusion.guidance import Unguided
from pipeline.diffusion.preconditioning import per_sample
from pipeline.diffusion.sampling import Sampler, sample
from pipeline.diffusion.schedules import VP, Linear, Unscaled, VPScaling
from pipeline.diffusion.seeds import INITIAL, Noise, draw, normal
from pipeline.diffusion.solvers import MANY, Alpha, Euler, Heun, Memory, Midpoint, Ralston, UniPC
from pipeline.diffusion.timesteps import EDMSteps, IDDPMSteps, NoiseLevels, grid
from tests.diffusion.mixture import Mixture
from tests.diffusion.parts import (
    SCALINGS,
    SCHEDULES,
    SMOOTH_TIMESTEPS,
    SOLVER_VARIANTS,
    SOLVERS,
    in_plain_coordinates,
    with_steps,
)  # fmt: skip
from tests.diffusion.plans import Levels, follow

MIXTURE = Mixture(std=0.5)
NUM_LEVELS = (129, 257, 513)
ROUNDING = 2e-10  # errors below it say more of the arithmetic than of the solver
START_STEPS = 4
# Of order 5 they fall to 1e-14 soon; between these two, slopes are from 4.7 to 5.2. On the ve schedule without scaling
# errors of opposite signs still cancel there, and nothing can be read off.
ORDER_5_LEVELS, TOLERANCES = (193, 385), {5: 0.4}
DETERMINISTIC = [solver for solver in [*SOLVERS, *SOLVER_VARIANTS] if not solver.stochastic]
PLAIN = [solver for solver in DETERMINISTIC if in_plain_coordinates(solver)]
COUPLES = [(schedule, scaling) for schedule in SCHEDULES for scaling in SCALINGS]
# Near zero the time of these schedules is like sigma^2, and s = 1 / (1 + sigma) like 1 - sqrt(t): the state is not
# smooth in t there, and the vp grid, with few levels near zero, shows the order with some 8,000 levels only.
ROUGH_AT_ZERO = ("vp", "ve")
ROUGH_TOLERANCES = {5: 0.7}  # slopes of 4.39 and 4.48 were seen, on grids as long as rounding allows
# Quantiles to start from, symmetric about 0 without it (0 stays where it is).
START = torch.tensor([-2.0, -1.5, -1.0, -0.6, -0.3, -0.1, 0.05, 0.2, 0.45, 0.8, 1.2, 1.8], dtype=torch.float64)


class Endless(Levels):
    """Levels that are not the last ones, so that no solver lowers its order for the end."""

    @property
    def ahead(self) -> int:
        return MANY


def errors(sampler: Sampler, num_levels: int) -> Tensor:
    """The largest error for each grid: one sample a grid, its elements the starting points.

    The last 16th of the grids is left out: the vp grid goes down by a factor of 2 a step there, however fine it is.
    """
    end = 1 + (num_levels - 1) * 15 // 16
    sigmas = torch.stack(
        [grid(with_steps(steps, num_levels), NoiseLevels())[:end] for steps in SMOOTH_TIMESTEPS], dim=1
    )
    first, last = sigmas[0], sigmas[-1]
    top = (first[:, None] * START).reshape(len(SMOOTH_TIMESTEPS), 1, 1, -1)
    seeds, column = torch.arange(len(SMOOTH_TIMESTEPS)), (-1, 1, 1, 1)

    def exact(sigma: Tensor) -> Tensor:
        return MIXTURE.transport(top, first.reshape(column), sigma.reshape(column))

    memory, begin = remembered(sampler, sigmas, exact), START_STEPS if sampler.solver.order > 1 else 0
    x, plan = exact(sigmas[begin]), Endless(sigmas[begin:])
    end, _ = follow(MIXTURE.denoise, sampler, plan, x, seeds, sigmas[begin], last, memory)
    return (end - exact(last)).abs().amax(dim=(1, 2, 3))


def remembered(sampler: Sampler, sigmas: Tensor, exact: Callable[[Tensor], Tensor]) -> Memory:
    """What a multistep solver remembers of steps that began at exact states: the low-order start does not count."""
    flow = Flow(
        MIXTURE.denoise, sampler.schedule, sampler.scaling, Unguided(), None, torch.zeros(sigmas.shape[1]).long()
    )
    memory: Memory = ()
    for sigma, sigma_next in pairwise(sigmas[: START_STEPS + 1]):
        t, state = flow.t(sigma), exact(sigma)
        noise = Noise(torch.arange(len(state)), state.shape[1:])
        scaled = per_sample(flow.s(t), state) * state
        memory = sampler.solver.step(flow, scaled, t, flow.t(sigma_next), memory, noise, MANY).memory
        if isinstance(sampler.solver, UniPC):
            memory = (*memory[:-1], state)  # the corrected start of its step, which is exact already
    return memory


ORDER_CASES = [
    pytest.param(solver, *couple, id="-".join([repr(solver), couple[0].kind, couple[1].kind]))
    for solver in DETERMINISTIC
    for couple in (COUPLES[:1] if in_plain_coordinates(solver) else COUPLES)
]


@pytest.mark.parametrize(("solver", "schedule", "scaling"), ORDER_CASES)
def test_a_solver_has_the_order_that_it_states(solver, schedule, scaling):
    sampler = Sampler(solver=solver, schedule=schedule, scaling=scaling)
    if (solver.order, schedule.kind, scaling.kind) == (5, "ve", "none"):
        pytest.skip("errors of opposite signs cancel")
    lengths = ORDER_5_LEVELS if solver.order == 5 else NUM_LEVELS
    by_length = torch.stack([errors(sampler, num_levels) for num_levels in lengths])
    slopes = (by_length[:-1] / by_length[1:]).log2()  # each grid has twice the steps of the one before
    slopes = torch.where(by_length[-1] > ROUNDING, slopes[-1], slopes[0])
    for steps, slope, column in zip(SMOOTH_TIMESTEPS, slopes.tolist(), by_length.T.tolist(), strict=True):
        rough = scaling.kind == "flow" and schedule.kind in ROUGH_AT_ZERO
        if rough and steps.kind == "vp":
            continue
        tolerance = (ROUGH_TOLERANCES if rough else TOLERANCES).get(solver.order, 0.15)
        assert abs(slope - solver.order) < tolerance, f"{steps.kind} grid: slope {slope:.3f}, errors {column}"


@pytest.mark.parametrize("solver", PLAIN, ids=repr)
def test_neither_schedule_nor_scaling_matters_to_a_solver_in_plain_coordinates(solver):
    """So its order under one of them is its order under all. (The last step, to 0, is Euler's on the schedule.)"""
    sigmas = grid(EDMSteps(num_steps=9), NoiseLevels())[:-1, None].expand(-1, 6)
    x, seeds = sigmas[0].reshape(-1, 1, 1, 1) * START.reshape(6, 1, 1, 2), torch.arange(6)
    samplers = [Sampler(solver=solver, schedule=schedule, scaling=scaling) for schedule, scaling in COUPLES]
    ends = torch.stack(
        [follow(MIXTURE.denoise, item, Levels(sigmas), x, seeds, sigmas[0], sigmas[-1])[0] for item in samplers]
    )
    torch.testing.assert_close(ends, ends[:1].expand_as(ends), rtol=0, atol=1e-10)


def plain_denoise(x: float, sigma: float) -> float:
    v = MIXTURE.std**2 + sigma**2
    return (MIXTURE.std**2 * x + sigma**2 * math.tanh(x / v)) / v


def plain_linear(x: float, t: float) -> float:
    """dx/dt of sigma = t, s = 1 (Eq. 3 of the paper)."""
    return (x - plain_denoise(x, t)) / t


def plain_vp(x: float, t: float) -> float:
    """dx/dt of the VP column: s = 1 / sqrt(1 + sigma^2), s_dot = -sigma sigma_dot s^3."""
    sigma = math.sqrt(math.exp(0.5 * 19.9 * t**2 + 0.1 * t) - 1)
    sigma_dot = (0.1 + 19.9 * t) * (sigma + 1 / sigma) / 2
    s = 1 / math.sqrt(1 + sigma**2)
    s_dot = -sigma * sigma_dot * s**3
    return (sigma_dot / sigma + s_dot / s) * x - sigma_dot * s / sigma * plain_denoise(x / s, sigma)


def plain_vp_time(sigma: float) -> float:
    return (math.sqrt(0.1**2 + 2 * 19.9 * math.log(1 + sigma**2)) - 0.1) / 19.9 if sigma else 0.0


def plain_walk(velocity, x: float, times: list[float], alpha: float | None) -> float:
    """Algorithm 3 of the paper (alpha None: Euler), the last step Euler's."""
    for t, t_next in pairwise(times):
        h = t_next - t
        d = velocity(x, t)
        if alpha is None or t_next == 0:
            x = x + h * d
        else:
            d_prime = velocity(x + alpha * h * d, t + alpha * h)
            x = x + h * ((1 - 1 / (2 * alpha)) * d + 1 / (2 * alpha) * d_prime)
    return x


ALPHAS = [(Euler(), None), (Heun(), 1.0), (Midpoint(), 0.5), (Ralston(), 2 / 3), (Alpha(alpha=0.35), 0.35)]


@pytest.mark.parametrize(("solver", "alpha"), ALPHAS, ids=lambda value: getattr(value, "kind", ""))
@pytest.mark.parametrize("column", ["linear", "vp"])
def test_on_the_iddpm_grid_a_solver_is_what_the_plain_loop_computes(solver, alpha, column):
    vp = column == "vp"
    sampler = Sampler(
        timesteps=IDDPMSteps(num_steps=18),
        solver=solver,
        schedule=VP() if vp else Linear(),
        scaling=VPScaling() if vp else Unscaled(),
    )
    seeds = torch.arange(8)
    images = sample(MIXTURE.denoise, NoiseLevels(), sampler, seeds, (1, 1, 1)).images.flatten().tolist()

    sigmas = grid(sampler.timesteps, NoiseLevels()).tolist()
    times = [plain_vp_time(sigma) for sigma in sigmas] if vp else sigmas
    scale = sigmas[0] / math.sqrt(1 + sigmas[0] ** 2) if vp else sigmas[0]
    for image, epsilon in zip(images, normal(seeds, draw(INITIAL, 0), (1,))[:, 0].tolist(), strict=True):
        expected = plain_walk(plain_vp if vp else plain_linear, scale * epsilon, times, alpha)
        assert image == pytest.approx(expected, abs=1e-10)


def test_every_runge_kutta_solver_is_compared_with_the_plain_loop():
    runge_kutta = [solver for solver in SOLVERS if type(solver).__module__.endswith("runge_kutta")]
    assert [solver for solver, _ in ALPHAS] == runge_kutta


def test_euler_on_the_linear_schedule_is_ddim():
    """DDIM with eta = 0 (Song et al. 2020, Eq. 12) in the variables alpha_bar = 1 / (1 + sigma^2)."""
    sigmas = torch.tensor([[7.0], [2.0]], dtype=torch.float64)
    x = 7.0 * torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(1, 1, 1, 9)
    end, _ = follow(MIXTURE.denoise, Sampler(solver=Euler()), Levels(sigmas), x, torch.arange(1), sigmas[0])

    a, a_next = 1 / (1 + 7.0**2), 1 / (1 + 2.0**2)
    x0 = MIXTURE.denoise(x, sigmas[0])
    ddpm_x = math.sqrt(a) * x
    epsilon = (ddpm_x - math.sqrt(a) * x0) / math.sqrt(1 - a)
    ddpm_next = math.sqrt(a_next) * x0 + math.sqrt(1 - a_next) * epsilon
    torch.testing.assert_close(end, ddpm_next / math.sqrt(a_next), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("alpha", [0.0, -0.5, 1.5, math.nan])
def test_an_alpha_outside_its_range_is_refused(alpha):
    with pytest.raises(ValueError, match=r"^alpha: .*\(got "):
        Alpha(alpha=alpha)
