"""Power-function averages against their definition, written out and integrated numerically."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from pipeline.training.ema import Averages, as_stored
from pipeline.training.power_ema import LARGEST_STD, Profile, gamma_of, nearest_combination, power_decay
from pipeline.training.settings import EMA

NODES, WEIGHTS = np.polynomial.legendre.leggauss(60)


def _profile(tau: np.ndarray, gamma: float, end: float) -> np.ndarray:
    return np.where(tau <= end, (gamma + 1) * tau**gamma / end ** (gamma + 1), 0.0)


def _integral(values_at: object, ends: Sequence[float]) -> float:
    """Of a function that is smooth between the moments `ends`, from 0 to the last of them."""
    assert callable(values_at)
    total = 0.0
    for start, stop in zip([0.0, *ends[:-1]], ends, strict=True):
        tau = (start + stop) / 2 + (stop - start) / 2 * NODES
        total += (stop - start) / 2 * float((WEIGHTS * values_at(tau)).sum())
    return total


@pytest.mark.parametrize("std", [0.01, 0.05, 0.075, 0.1, 0.2, LARGEST_STD])
def test_the_profile_of_a_std_has_this_std(std: float) -> None:
    gamma = gamma_of(std)
    mean = _integral(lambda tau: tau * _profile(tau, gamma, 1.0), [0.5, 0.8, 1.0])
    variance = _integral(lambda tau: (tau - mean) ** 2 * _profile(tau, gamma, 1.0), [0.5, 0.8, 1.0])
    assert math.sqrt(variance) == pytest.approx(std, rel=1e-6)


def test_the_exponents_of_the_published_stds() -> None:
    """16.97 and 6.94, as the paper has them."""
    assert gamma_of(0.05) == pytest.approx(16.97, abs=0.005)
    assert gamma_of(0.10) == pytest.approx(6.94, abs=0.005)


def test_updates_one_by_one_are_the_weighted_sum_of_all_moments() -> None:
    """The weight of moment k among t is (k^(g + 1) - (k - 1)^(g + 1)) / t^(g + 1): the profile over its step."""
    values = np.random.default_rng(0).normal(size=200)
    for std in (0.05, 0.1, 0.25):
        gamma = gamma_of(std)
        average = 123.0  # which the first update leaves nothing of
        for step, value in enumerate(values):
            beta = power_decay(64, 64 * step, gamma)
            average = beta * average + (1 - beta) * value
        edges = np.arange(201) / 200
        assert average == pytest.approx(float(np.diff(edges ** (gamma + 1)) @ values), rel=1e-10)


def test_a_networks_averages_are_those_sums_beside_the_half_lives() -> None:
    network = nn.Linear(3, 1)
    averages = Averages(EMA(halflife_kimg=(0.1,), ramp_up=None, power_stds=(0.05, 0.1)), network)
    states = torch.randn(50, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for step, state in enumerate(states):
        network.weight.data.copy_(state)
        averages.update(10, 10 * step)
    found = averages.state_dicts()
    assert list(found) == ["ema-0.1", "power-0.05", "power-0.1"]
    for std in (0.05, 0.1):
        shares = torch.from_numpy(np.diff((np.arange(51) / 50) ** (gamma_of(std) + 1)))
        expected = (shares[:, None, None] * states).sum(0).float()
        torch.testing.assert_close(found[f"power-{std:g}"]["weight"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("num_snapshots", "published"), [(8, 1.2e-2), (16, 3.5e-3), (32, 9e-4)])
def test_a_profile_between_the_tracked_is_off_by_what_theory_predicts(num_snapshots: int, published: float) -> None:
    moments = [(k + 1) / num_snapshots for k in range(num_snapshots)]
    profiles = [Profile(gamma_of(std), moment) for moment in moments for std in (0.05, 0.10)]
    gamma = gamma_of(0.075)
    found = nearest_combination(profiles, Profile(gamma, 1.0))

    def off(tau: np.ndarray) -> np.ndarray:
        parts = [factor * _profile(tau, *profile) for factor, profile in zip(found.factors, profiles, strict=True)]
        return (sum(parts) - _profile(tau, gamma, 1.0)) ** 2

    size = _integral(lambda tau: _profile(tau, gamma, 1.0) ** 2, moments)
    error = math.sqrt(_integral(off, moments) / size)
    assert error == pytest.approx(published, rel=0.05)
    assert found.error == pytest.approx(error, rel=1e-3)
    assert sum(found.factors) == pytest.approx(1.0, abs=1e-12)


def test_no_other_combination_comes_nearer() -> None:
    """Against a least-squares fit of sampled profiles, which knows nothing of their integrals."""
    moments = [0.1, 0.35, 0.6, 1.0]  # not evenly spaced
    profiles = [Profile(gamma_of(std), moment) for moment in moments for std in (0.06, 0.15)]
    tau = (np.arange(40_000) + 0.5) / 40_000
    columns = np.stack([_profile(tau, *profile) for profile in profiles], axis=1)
    wanted = _profile(tau, gamma_of(0.1), 1.0)
    fitted = np.linalg.lstsq(columns, wanted, rcond=None)[0]
    found = nearest_combination(profiles, Profile(gamma_of(0.1), 1.0))
    np.testing.assert_allclose(found.factors, fitted / fitted.sum(), atol=1e-3)


@pytest.mark.parametrize("std", [0.05, 0.1])
def test_a_tracked_profile_is_itself_at_any_moment_of_a_snapshot(std: float) -> None:
    profiles = [Profile(gamma_of(tracked), 1e6 * k) for k in range(1, 33) for tracked in (0.05, 0.1)]
    found = nearest_combination(profiles, Profile(gamma_of(std), 20e6))
    expected = [float(profile == Profile(gamma_of(std), 20e6)) for profile in profiles]
    np.testing.assert_allclose(found.factors, expected, atol=1e-9)
    assert found.error < 1e-6


def test_half_precision_is_for_the_parameters_of_power_averages_only() -> None:
    network = nn.BatchNorm1d(2)
    settings = EMA(power_stds=(0.1,), power_precision="fp16")
    stored = as_stored({**Averages(settings, network).state_dicts(), "raw": network.state_dict()}, settings, network)
    assert {key: value.dtype for key, value in stored["power-0.1"].items() if key != "num_batches_tracked"} == {
        "weight": torch.float16, "bias": torch.float16, "running_mean": torch.float32, "running_var": torch.float32,
    }  # fmt: skip
    assert all(stored[name]["weight"].dtype == torch.float32 for name in ("ema-500", "raw"))


@pytest.mark.parametrize(
    ("stds", "problem"),
    [
        ((0.0,), r"must be above 0 and at most 0\.289 \(got 0\)"),
        ((0.3,), r"must be above 0 and at most 0\.289 \(got 0\.3\)"),
        ((float("nan"),), r"must be above 0"),
        ((0.05, 0.05), r"must be different \(got \[0\.05, 0\.05\]\)"),
        ((0.05000001,), r"must have at most six digits \(got 0\.05000001\)"),
    ],
)
def test_stds_that_no_profile_has_are_refused(stds: tuple[float, ...], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        EMA(power_stds=stds)
