"""What multistep solvers do with their past: when it is missing, short, or at levels that don't rise."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.diffusion.flow import Flow
from pipeline.diffusion.guidance import Unguided
from pipeline.diffusion.sampling import Sampler, sample
from pipeline.diffusion.schedules import VP, Linear, Unscaled
from pipeline.diffusion.seeds import Noise
from pipeline.diffusion.solvers import (
    DEIS,
    IPNDM,
    LMS,
    MANY,
    DPMpp2M,
    DPMpp2S,
    DPMpp3M,
    DPMSolver2,
    Euler,
    GradientEstimation,
    IPNDMv,
    Step,
    UniPC,
)  # fmt: skip
from pipeline.diffusion.solvers.deis import NUM_POINTS, _gauss_legendre
from pipeline.diffusion.solvers.multistep import differences, exponential_moments, newton_weights, recall
from pipeline.diffusion.stochasticity import Churn
from pipeline.diffusion.timesteps import EDMSteps, NoiseLevels, grid
from tests.diffusion.mixture import Mixture
from tests.diffusion.parts import name
from tests.diffusion.plans import Levels, follow

MIXTURE = Mixture(std=0.5)
MULTISTEP = [
    DPMpp2M(), DPMpp3M(), DPMpp3M(form="corrected"), IPNDM(), IPNDMv(), LMS(), GradientEstimation(), DEIS(), UniPC()
]  # fmt: skip
UP_TO_ORDER = [replace(solver, max_order=1) for solver in (IPNDM(), IPNDMv(), LMS(), DEIS())]
UP_TO_ORDER += [GradientEstimation(gamma=1)]


def column(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def flow(num_samples: int) -> Flow:
    return Flow(MIXTURE.denoise, Linear(), Unscaled(), Unguided(), None, torch.zeros(num_samples).long())


def step(solver, x: Tensor, sigma: Tensor, sigma_next: Tensor, memory=(), ahead: int = MANY) -> Step:
    noise = Noise(torch.arange(len(x)), x.shape[1:])
    return solver.step(flow(len(x)), x, sigma, sigma_next, memory, noise, ahead)


def walk(solver, sigmas: list[float], x: Tensor) -> Step:
    """Some steps, and the memory after them."""
    result = Step(x)
    for sigma, sigma_next in pairwise(sigmas):
        levels = column(sigma).expand(len(x)), column(sigma_next).expand(len(x))
        result = step(solver, result.x, *levels, result.memory)
    return result


START = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 1, 2, 2)


# --- missing


@pytest.mark.parametrize("solver", [*MULTISTEP, *UP_TO_ORDER], ids=repr)
def test_without_a_past_a_step_is_eulers(solver):
    """Exactly Euler's on the linear schedule, for the first-order step of all of them is DDIM's."""
    levels = column(80.0, 7.0, 0.3), column(20.0, 6.5, 0.002)
    x = levels[0].reshape(-1, 1, 1, 1) * START
    first = step(solver, x, *levels)
    torch.testing.assert_close(first.x, step(Euler(), x, *levels).x, rtol=1e-13, atol=1e-13)
    zeros = tuple(torch.zeros_like(item) for item in first.memory)
    assert torch.equal(step(solver, x, *levels, zeros).x, first.x), "zeros are no past"
    again = step(solver, x, *levels, zeros).memory
    assert [item.shape for item in again] == [item.shape for item in first.memory]


@pytest.mark.parametrize("solver", UP_TO_ORDER, ids=repr)
def test_of_order_1_every_step_is_eulers(solver):
    sampler = Sampler(timesteps=EDMSteps(num_steps=9), solver=solver)
    expected = sample(MIXTURE.denoise, NoiseLevels(), replace(sampler, solver=Euler()), torch.arange(5), (1, 2, 2))
    images = sample(MIXTURE.denoise, NoiseLevels(), sampler, torch.arange(5), (1, 2, 2)).images
    torch.testing.assert_close(images, expected.images, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", MULTISTEP, ids=repr)
def test_a_long_past_a_short_one_and_none_go_side_by_side(solver):
    """Of four samples each has lost more of its past than the one before, and each steps as it would alone."""
    sigmas = [80.0, 60.0, 45.0, 33.0, 25.0]
    pasts = [walk(solver, sigmas[begin:], sigmas[begin] * START[:1]) for begin in (0, 1, 2, 3)]
    levels = column(25.0), column(18.0)
    ends = [step(solver, past.x, *levels, past.memory) for past in pasts]
    memory = tuple(torch.cat(items) for items in zip(*[past.memory for past in pasts], strict=True))
    x = torch.cat([past.x for past in pasts])
    together = step(solver, x, levels[0].expand(4), levels[1].expand(4), memory)
    for number, end in enumerate(ends):
        assert torch.equal(together.x[number], end.x[0])
    longer = [not torch.equal(together.x[number], together.x[number + 1]) for number in range(3)]
    assert longer == [True] * 3, "they came on other ways"


@pytest.mark.parametrize("solver", MULTISTEP, ids=repr)
def test_every_value_of_the_past_counts_and_no_more(solver):
    depth = {"dpmpp_2m": 1, "gradient_estimation": 1, "dpmpp_3m": 2}.get(solver.kind, 3)
    past = walk(solver, [80.0, 60.0, 45.0, 33.0, 25.0], 80.0 * START)
    levels = column(25.0).expand(3), column(18.0).expand(3)
    ends = []
    for keep in range(depth + 1):
        memory = list(past.memory)
        memory[depth + keep : 2 * depth] = [torch.zeros_like(levels[0])] * (depth - keep)
        ends.append(step(solver, past.x, *levels, tuple(memory)).x)
    assert torch.equal(ends[depth], step(solver, past.x, *levels, past.memory).x)
    assert len({tuple(end.flatten().tolist()) for end in ends}) == depth + 1


# --- noise in between


def test_a_past_is_remembered_where_the_last_step_has_led_and_nowhere_else():
    values, sigmas = (2 * START, 3 * START), (column(9.0, 9.0, 0.0), column(12.0, 0.0, 0.0))
    memory = (*values, *sigmas, column(7.0, 7.0, 7.0))
    assert recall(memory, START, column(7.0, 7.0 * (1 + 1e-14), 7.0), 2).length(2).tolist() == [2, 1, 0]
    assert recall(memory, START, column(7.0, 7.0, 7.0), 2).length(1).tolist() == [1, 1, 0]
    assert recall(memory, START, column(7.1, 7.0001, 12.0), 2).length(2).tolist() == [0, 0, 0]
    assert recall((), START, column(7.0, 7.0, 7.0), 2).length(2).tolist() == [0, 0, 0]
    pushed = recall(memory, START, column(7.0, 7.1, 7.0), 2).push(START, column(7.0, 7.1, 7.0), column(5.0, 5.0, 5.0))
    assert torch.equal(
        torch.stack(pushed[2:]), torch.stack([column(7.0, 7.1, 7.0), column(9.0, 0, 0), column(5, 5, 5)])
    )


@pytest.mark.parametrize("solver", MULTISTEP, ids=repr)
@pytest.mark.parametrize("raised", [33.0001, 45.0 - 1e-9, 45.0, 45.0 + 1e-9, 70.0])
def test_a_step_that_begins_with_new_noise_has_no_past(solver, raised):
    """As churn makes it: below the level of the step before, at it, or above."""
    past = walk(solver, [80.0, 60.0, 45.0, 33.0], 80.0 * START)
    levels = column(raised).expand(3), column(25.0).expand(3)
    end, anew = step(solver, raised * START, *levels, past.memory), step(solver, raised * START, *levels)
    assert torch.equal(end.x, anew.x)
    levels = levels[1], column(18.0).expand(3)
    assert torch.equal(step(solver, end.x, *levels, end.memory).x, step(solver, end.x, *levels, anew.memory).x)


@pytest.mark.parametrize("solver", MULTISTEP, ids=repr)
def test_under_churn_a_multistep_solver_is_eulers(solver):
    """With the same noise. Where churn pauses, below S_min, the past comes back, and stays where it belongs."""
    steps = EDMSteps(num_steps=24)
    for S_min, same in ((0.0, True), (0.3, False)):
        churn = Churn(S_churn=12.0, S_min=S_min, S_max=20.0 if S_min else math.inf)
        images, eulers = (
            sample(MIXTURE.denoise, NoiseLevels(sigma_max=100.0), sampler, torch.arange(8), (1, 5, 5)).images
            for sampler in [Sampler(steps, part, stochasticity=churn) for part in (solver, Euler())]
        )
        assert torch.allclose(images, eulers, rtol=0, atol=1e-10) is same
        assert images.abs().max().item() < 4
        assert (images - eulers).abs().max().item() < 1


# --- the end


@pytest.mark.parametrize(
    ("solver", "lower"),
    [(DPMpp3M(), DPMpp2M()), (DPMpp3M(form="corrected"), DPMpp2M()), (DEIS(), DEIS(max_order=2))],
    ids=repr,
)
def test_the_step_before_the_last_has_order_2_where_that_is_set(solver, lower):
    past = walk(solver, [80.0, 60.0, 45.0, 33.0], 80.0 * START)
    levels = column(33.0).expand(3), column(25.0).expand(3)
    ends = {
        (setting, ahead): step(replace(solver, lower_order_final=setting), past.x, *levels, past.memory, ahead).x
        for setting in (False, True)
        for ahead in (1, 2, MANY)
    }
    expected = step(lower, past.x, *levels, short(past)).x
    torch.testing.assert_close(ends[True, 1], expected, rtol=1e-14, atol=1e-14)
    assert not torch.equal(ends[False, 1], expected)
    assert torch.equal(ends[False, 1], ends[False, MANY])
    assert torch.equal(ends[True, MANY], ends[False, MANY])


def short(past: Step) -> tuple[Tensor, ...]:
    """The newest value and level of a memory."""
    return past.memory[0], past.memory[len(past.memory) // 2], past.memory[-1]


# --- the arithmetic


def test_deis_has_the_coefficients_of_its_paper():
    """C_j: the integral of the j-th Lagrange polynomial in VP time over sigma, by another quadrature."""
    sigmas = grid(EDMSteps(num_steps=7), NoiseLevels())[:-1]
    x = 80 * START
    points, weights = np.polynomial.legendre.leggauss(120)
    expected, slopes = x, []
    for number, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        slopes = [(expected - MIXTURE.denoise(expected, sigma.expand(3))) / sigma, *slopes][:4]
        nodes = VP().sigma_inv(sigmas[: number + 1].flip(0)[:4]).numpy()
        t = VP().sigma_inv((sigma + sigma_next) / 2 + (sigma_next - sigma) / 2 * torch.from_numpy(points)).numpy()
        for j, slope in enumerate(slopes):
            lagrange = np.prod([(t - other) / (nodes[j] - other) for other in np.delete(nodes, j)], axis=0)
            expected = expected + (sigma_next - sigma) / 2 * float((weights * lagrange).sum()) * slope
    levels = sigmas[:, None].expand(-1, 3)
    end, _ = follow(MIXTURE.denoise, Sampler(solver=DEIS()), Levels(levels), x, torch.arange(3), levels[0])
    torch.testing.assert_close(end, expected, rtol=1e-8, atol=1e-8)


def test_the_quadrature_is_that_of_gauss_and_legendre():
    points, weights = _gauss_legendre(torch.device("cpu"))
    theirs, their_weights = np.polynomial.legendre.leggauss(NUM_POINTS)
    torch.testing.assert_close(points, torch.from_numpy((theirs + 1) / 2), rtol=0, atol=1e-15)
    torch.testing.assert_close(weights, torch.from_numpy(their_weights / 2), rtol=1e-12, atol=0)


def test_newtons_form_integrates_a_cubic_polynomial_exactly():
    """Against numpy's quadrature of e^(u - h) p(u), p through four nodes, two of them outside of the step."""
    h, nodes = 1.3, [0.0, 1.3, -0.7, -2.0]
    p = np.polynomial.Polynomial([0.3, -1.0, 0.4, 0.25])
    points, weights = np.polynomial.legendre.leggauss(40)
    u = h / 2 * (1 + points)
    expected = (h / 2 * weights * np.exp(u - h) * p(u)).sum()
    divided = differences([column(p(node)) for node in nodes], [column(node) for node in nodes])
    found = newton_weights(exponential_moments(column(h), 4), [column(node) for node in nodes])
    assert sum(float(a * b) for a, b in zip(found, divided, strict=True)) == pytest.approx(expected, rel=1e-13)


# --- settings


@pytest.mark.parametrize("solver", [IPNDM, IPNDMv, LMS, DEIS, UniPC], ids=name)
def test_a_max_order_outside_its_range_is_refused(solver):
    for max_order in (0, 5):
        with pytest.raises(ValueError, match=r"^max_order: must be from 1 to [34] \(got "):
            solver(max_order=max_order)


@pytest.mark.parametrize("solver", [DPMSolver2, DPMpp2S], ids=name)
@pytest.mark.parametrize("r", [0.0, -0.5, 1.5, math.nan])
def test_an_inner_level_outside_of_the_step_is_refused(solver, r):
    with pytest.raises(ValueError, match=r"^r: .*\(got "):
        solver(r=r)


@pytest.mark.parametrize(("solver", "field"), [(DPMpp3M, "form"), (DEIS, "time"), (UniPC, "variant")])
def test_a_word_that_is_not_known_is_refused(solver, field):
    with pytest.raises(ValueError, match=rf"^{field}: must be \w+ or \w+ \(got other\)"):
        solver(**{field: "other"})


@pytest.mark.parametrize("gamma", [1.5, 2.0, 2.5])
def test_gradient_estimation_is_the_plain_loop_of_its_paper(gamma):
    """In numpy, on one number: the noise estimate epsilon = (x - D) / sigma, and the last one beside it."""
    sigmas = [80.0, 22.0, 9.0, 1.1, 0.4]
    x, last = 80.0 * 0.7, None
    for sigma, sigma_next in pairwise(sigmas):
        denoised = float(MIXTURE.denoise(column(x).reshape(1, 1, 1, 1), column(sigma), None))
        epsilon = (x - denoised) / sigma
        estimate = epsilon if last is None else gamma * epsilon + (1 - gamma) * last
        x, last = x + (sigma_next - sigma) * estimate, epsilon
    end = walk(GradientEstimation(gamma=gamma), sigmas, torch.full((1, 1, 1, 1), 80.0 * 0.7, dtype=torch.float64))
    assert end.x.item() == pytest.approx(x, rel=1e-12)
