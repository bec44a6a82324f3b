"""Schedules and scalings against autograd, the paper's formulas, and round trips."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.diffusion.schedules import VE, VP, Linear, RectifiedFlow, RectifiedFlowScaling, Unscaled, VPScaling
from tests.diffusion.parts import SCALINGS, SCHEDULES, name

SIGMAS = torch.logspace(-3, math.log10(150), 200, dtype=torch.float64)


def derivative(function, at: torch.Tensor) -> torch.Tensor:
    leaf = at.clone().requires_grad_()
    value = function(leaf)
    if not value.requires_grad:  # a constant
        return torch.zeros_like(at)
    (gradient,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
    return torch.zeros_like(at) if gradient is None else gradient


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_sigma_dot_is_the_derivative_of_sigma(schedule):
    t = schedule.sigma_inv(SIGMAS)
    torch.testing.assert_close(schedule.sigma_dot(t), derivative(schedule.sigma, t), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_sigma_inv_is_the_inverse_of_sigma_and_has_its_derivative(schedule):
    t = schedule.sigma_inv(SIGMAS)
    torch.testing.assert_close(schedule.sigma(t), SIGMAS, rtol=1e-12, atol=0)
    slope = derivative(schedule.sigma_inv, SIGMAS)
    torch.testing.assert_close(slope * derivative(schedule.sigma, t), torch.ones_like(t), rtol=1e-8, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_sigma_rises_from_zero(schedule):
    zero = torch.zeros(1, dtype=torch.float64)
    assert schedule.sigma(zero) == 0
    assert schedule.sigma_inv(zero) == 0
    assert bool((schedule.sigma_inv(SIGMAS).diff() > 0).all())


@pytest.mark.parametrize("scaling", SCALINGS, ids=name)
def test_ds_dsigma_is_the_derivative_of_s(scaling):
    torch.testing.assert_close(scaling.ds_dsigma(SIGMAS), derivative(scaling.s, SIGMAS), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("part", [*SCHEDULES, *SCALINGS], ids=name)
def test_the_bits_of_a_sample_do_not_depend_on_how_many_stand_beside_it(part):
    """The loop hands over views that repeat one number, and torch computes those by another path."""
    functions = [getattr(part, f) for f in ("sigma", "sigma_dot", "sigma_inv", "s", "ds_dsigma") if hasattr(part, f)]
    values = torch.logspace(-3, 0, 50, dtype=torch.float64)
    for function in functions:
        together = function(values)
        for index, value in enumerate(values):
            for num in (1, 3, 16, 33):
                assert bool((function(value.expand(num)) == together[index]).all()), function
                assert bool((function(value.repeat(num)) == together[index]).all()), function


def test_the_schedules_of_table_1():
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    for value, time in zip(VP().sigma(t).tolist(), t.tolist(), strict=True):
        assert value == pytest.approx(math.sqrt(math.exp(19.9 * time**2 / 2 + 0.1 * time) - 1), rel=1e-12)
    for value, time in zip(VP(beta_d=7, beta_min=0).sigma(t).tolist(), t.tolist(), strict=True):
        assert value == pytest.approx(math.sqrt(math.exp(7 * time**2 / 2) - 1), rel=1e-10)
    assert VE().sigma(t).tolist() == pytest.approx([math.sqrt(time) for time in t.tolist()], rel=1e-15)
    assert Linear().sigma(t).tolist() == t.tolist()
    assert VP().sigma(torch.tensor([1e-3, 1.0], dtype=torch.float64)).tolist() == pytest.approx(
        [0.0105, 152.2], rel=2e-3
    )


def test_vp_scaling_is_the_s_of_table_1():
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    s = VPScaling().s(VP().sigma(t)).tolist()
    assert s == pytest.approx([1 / math.sqrt(math.exp(19.9 * x**2 / 2 + 0.1 * x)) for x in t.tolist()], rel=1e-12)
    assert Unscaled().s(t).tolist() == [1.0] * 50


def test_the_state_of_the_rectified_flow_goes_straight_from_data_to_noise():
    """s (y + sigma n) is (1 - t) y + t n, and the conditional velocity is n - y at every t."""
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    sigma = RectifiedFlow().sigma(t)
    s, s_dot = RectifiedFlowScaling().s(sigma), RectifiedFlowScaling().ds_dsigma(sigma) * RectifiedFlow().sigma_dot(t)
    assert s.tolist() == pytest.approx((1 - t).tolist(), rel=1e-13)
    assert (s * sigma).tolist() == pytest.approx(t.tolist(), rel=1e-13)
    assert s_dot.tolist() == pytest.approx([-1.0] * 50, rel=1e-12)
    assert (s_dot * sigma + s * RectifiedFlow().sigma_dot(t)).tolist() == pytest.approx([1.0] * 50, rel=1e-12)


@settings(max_examples=100, deadline=None)
@given(
    beta_d=st.floats(0.1, 100), beta_min=st.floats(0, 10), log_sigma=st.floats(math.log(1e-6), math.log(1e4))
)  # fmt: skip
def test_vp_finds_the_time_of_any_noise_level(beta_d, beta_min, log_sigma):
    sigma = torch.tensor([math.exp(log_sigma)], dtype=torch.float64)
    schedule = VP(beta_d=beta_d, beta_min=beta_min)
    torch.testing.assert_close(schedule.sigma(schedule.sigma_inv(sigma)), sigma, rtol=1e-11, atol=0)


@pytest.mark.parametrize(
    ("betas", "key"), [((0.0, 0.1), "beta_d"), ((math.nan, 0.1), "beta_d"), ((19.9, -0.1), "beta_min")]
)
def test_a_vp_schedule_that_would_not_rise_is_refused(betas, key):
    with pytest.raises(ValueError, match=rf"^{key}: .*\(got "):
        VP(beta_d=betas[0], beta_min=betas[1])
