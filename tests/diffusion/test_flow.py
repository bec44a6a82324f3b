"""The probability flow against the paper's formula, closed form trajectories, and the count of evaluations."""

import math

import pytest
import torch
from torch import Tensor

from pipeline.diffusion.flow import Flow
from pipeline.diffusion.guidance import Unguided
from pipeline.diffusion.schedules import VE, VP, Linear, Unscaled, VPScaling
from tests.diffusion.mixture import Mixture
from tests.diffusion.parts import SCALINGS, SCHEDULES, name

MIXTURE = Mixture(std=0.3)
SIGMAS = torch.logspace(-2, 2, 30, dtype=torch.float64)


def flow_of(denoise, schedule, scaling, num_samples: int, labels: Tensor | None = None) -> Flow:
    return Flow(denoise, schedule, scaling, Unguided(), labels, torch.zeros(num_samples, dtype=torch.int64))


def along(t: Tensor, function) -> Tensor:
    leaf = t.clone().requires_grad_()
    value = function(leaf)
    return torch.autograd.grad(value.sum(), leaf)[0] if value.requires_grad else torch.zeros_like(t)


@pytest.mark.parametrize("scaling", SCALINGS, ids=name)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_the_velocity_is_equation_4_of_the_paper(schedule, scaling):
    t = schedule.sigma_inv(SIGMAS)
    x = torch.linspace(-3, 3, 30, dtype=torch.float64).reshape(30, 1, 1, 1)
    velocity = flow_of(MIXTURE.denoise, schedule, scaling, 30).velocity(x, t).flatten()

    sigma, sigma_dot = schedule.sigma(t), along(t, schedule.sigma)
    s, s_dot = scaling.s(sigma), along(t, lambda time: scaling.s(schedule.sigma(time)))
    denoised = MIXTURE.denoise((x.flatten() / s).reshape(30, 1), sigma).flatten()
    expected = (s_dot / s + sigma_dot / sigma) * x.flatten() - sigma_dot * s / sigma * denoised
    torch.testing.assert_close(velocity, expected, rtol=1e-8, atol=1e-8)


def plain_edm(x: float, t: float) -> float:
    return (x - plain_denoise(x, t)) / t


def plain_ve(x: float, t: float) -> float:
    return (x - plain_denoise(x, math.sqrt(t))) / (2 * t)


def plain_vp(x: float, t: float) -> float:
    sigma = math.sqrt(math.exp(0.5 * 19.9 * t**2 + 0.1 * t) - 1)
    sigma_dot = (0.1 + 19.9 * t) * (sigma + 1 / sigma) / 2
    s = math.exp(-(0.5 * 19.9 * t**2 + 0.1 * t) / 2)
    return (sigma_dot / sigma - sigma * sigma_dot * s**2) * x - sigma_dot * s / sigma * plain_denoise(x / s, sigma)


def plain_denoise(x: float, sigma: float) -> float:
    v = MIXTURE.std**2 + sigma**2
    return (MIXTURE.std**2 * x + sigma**2 * math.tanh(x / v)) / v


@pytest.mark.parametrize(
    ("schedule", "scaling", "plain"),
    [(VP(), VPScaling(), plain_vp), (VE(), Unscaled(), plain_ve), (Linear(), Unscaled(), plain_edm)],
    ids=["vp", "ve", "edm"],
)
def test_the_velocity_of_a_column_of_table_1_written_out(schedule, scaling, plain):
    t = schedule.sigma_inv(SIGMAS)
    x = torch.linspace(-3, 3, 30, dtype=torch.float64)
    velocity = flow_of(MIXTURE.denoise, schedule, scaling, 30).velocity(x.reshape(30, 1, 1, 1), t).flatten()
    expected = [plain(*pair) for pair in zip(x.tolist(), t.tolist(), strict=True)]
    assert velocity.tolist() == pytest.approx(expected, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("scaling", SCALINGS, ids=name)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_a_gaussian_moves_as_its_standard_deviation(schedule, scaling):
    """Data N(0, a^2): every trajectory is x(t) = c s(t) sqrt(a^2 + sigma(t)^2)."""
    a = 0.7
    t = schedule.sigma_inv(SIGMAS)

    def spread(time: Tensor) -> Tensor:
        sigma = schedule.sigma(time)
        return scaling.s(sigma) * (a**2 + sigma**2).sqrt()

    def denoise(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        return x * (a**2 / (a**2 + sigma**2)).reshape(-1, 1, 1, 1)

    velocity = flow_of(denoise, schedule, scaling, 30).velocity(spread(t).reshape(30, 1, 1, 1), t).flatten()
    torch.testing.assert_close(velocity, along(t, spread), rtol=1e-8, atol=1e-8)


def test_evaluations_are_counted_for_each_sample_by_itself_and_labels_go_along():
    seen = []

    def denoise(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        seen.append(labels.tolist())
        return x

    labels = torch.tensor([4, 5, 6, 7])
    count = torch.zeros(4, dtype=torch.int64)
    flow = Flow(denoise, Linear(), Unscaled(), Unguided(), labels, count)
    x, t = torch.ones(4, 1, 1, 1, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    flow.velocity(x, t)
    some = flow.select(torch.tensor([3, 1]))
    some.denoised(x[:2], t[:2])
    some.select(torch.tensor([1])).velocity(x[:1], t[:1])
    flow.slope(x, t, x)
    assert count.tolist() == [1, 3, 1, 2]
    assert seen == [[4, 5, 6, 7]] * 3, "a network always sees the whole batch"
