"""Training noise against known distributions, and the loss weights."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from pipeline.diffusion.noise import (
    Cosine,
    EDMWeighting,
    IDDPMLevels,
    InverseVariance,
    LogLogistic,
    LogNormal,
    LogUniform,
    RectifiedFlowUniformTime,
    RectifiedFlowWeighting,
    VPUniformTime,
)
from pipeline.diffusion.seeds import uniform
from tests.diffusion.parts import TRAINING_NOISES, WEIGHTINGS, name
from tests.diffusion.test_timesteps import plain_table

U = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000


def vp_cdf(sigma, beta_d: float = 19.9, beta_min: float = 0.1, epsilon_t: float = 1e-5):
    """P(sigma(t) <= sigma) for t ~ U(epsilon_t, 1), the inverse schedule written out."""
    t = [(math.sqrt(beta_min**2 + 2 * beta_d * math.log1p(s**2)) - beta_min) / beta_d for s in sigma]
    return np.array([(time - epsilon_t) / (1 - epsilon_t) for time in t])


def lognormal_cdf(sigma, P_mean: float = -1.2, P_std: float = 1.2):
    return scipy.stats.lognorm(s=P_std, scale=math.exp(P_mean)).cdf(sigma)


def loguniform_cdf(sigma, low: float = 0.02, high: float = 100.0):
    return scipy.stats.loguniform(low, high).cdf(sigma)


def flow_cdf(sigma, epsilon_t: float = 1e-3):
    """P(t / (1 - t) <= sigma) for t ~ U(0, 1 - epsilon_t)."""
    return np.array([s / (1 + s) / (1 - epsilon_t) for s in sigma])


def loglogistic_cdf(sigma, P_mean: float = -1.2, P_std: float = 1.2):
    scale = P_std / scipy.stats.logistic.std()
    return scipy.stats.fisk(c=1 / scale, scale=math.exp(P_mean)).cdf(sigma)


def cosine_cdf(sigma, sigma_max: float = 80.0, C_2: float = 0.008):
    """The time at which 1 / (1 + sigma^2) = f(t) / f(0), f(t) = cos^2(pi/2 (t + C_2) / (1 + C_2)), up to sigma_max."""

    def t(s: float) -> float:
        first = math.cos(math.pi / 2 * C_2 / (1 + C_2))
        return math.acos(first / math.sqrt(1 + s**2)) * 2 / math.pi * (1 + C_2) - C_2

    return np.array([t(s) / t(sigma_max) for s in sigma])


CASES = [
    (LogNormal(), lognormal_cdf),
    (LogNormal(P_mean=-0.4, P_std=1.0), lambda sigma: lognormal_cdf(sigma, -0.4, 1.0)),
    (LogUniform(), loguniform_cdf),
    (LogUniform(sigma_min=0.1, sigma_max=7.0), lambda sigma: loguniform_cdf(sigma, 0.1, 7.0)),
    (VPUniformTime(), vp_cdf),
    (VPUniformTime(beta_d=8.0, beta_min=0.5, epsilon_t=0.01), lambda sigma: vp_cdf(sigma, 8.0, 0.5, 0.01)),
    (RectifiedFlowUniformTime(), flow_cdf),
    (RectifiedFlowUniformTime(epsilon_t=0.1), lambda sigma: flow_cdf(sigma, 0.1)),
    (LogLogistic(), loglogistic_cdf),
    (LogLogistic(P_mean=0.5, P_std=0.4), lambda sigma: loglogistic_cdf(sigma, 0.5, 0.4)),
    (Cosine(), cosine_cdf),
    (Cosine(sigma_max=3.0, C_2=0.1), lambda sigma: cosine_cdf(sigma, 3.0, 0.1)),
]


@pytest.mark.parametrize(("noise", "cdf"), CASES, ids=lambda value: repr(value) if hasattr(value, "kind") else "")
def test_a_distribution_is_the_known_one(noise, cdf):
    """F(sigma(u)) is u, or 1 - u where the largest level comes first: both make u uniform into p_train."""
    sigma = noise.sigma(U)
    assert sigma.dtype == torch.float64
    p = torch.as_tensor(cdf(sigma.tolist()), dtype=torch.float64)
    expected = U if sigma[0] < sigma[-1] else 1 - U
    torch.testing.assert_close(p, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("noise", "cdf"), CASES, ids=lambda value: repr(value) if hasattr(value, "kind") else "")
def test_levels_made_of_uniform_numbers_pass_a_kolmogorov_smirnov_test(noise, cdf):
    sigma = noise.sigma(uniform(torch.arange(4000), 11)[:, 0])
    assert scipy.stats.kstest(sigma.numpy(), cdf).pvalue > 0.01


def test_iddpm_takes_every_level_equally_often():
    noise = IDDPMLevels(M=100)
    u = (torch.arange(5000, dtype=torch.float64) + 0.5) / 5000
    levels, counts = noise.sigma(u).unique(return_counts=True)
    assert counts.tolist() == [50] * 100
    assert levels.flip(0).tolist() == pytest.approx(plain_table(100)[:100], rel=1e-12)


def test_the_logistic_of_the_time_of_the_flow_is_the_logarithm_of_the_noise_level():
    """So a logit-normal time is LogNormal, and a uniform one LogLogistic of a logistic's own deviation."""
    sigma = LogNormal(P_mean=0.3, P_std=0.9).sigma(U)
    torch.testing.assert_close((sigma / (1 + sigma)).logit(), 0.3 + 0.9 * torch.special.ndtri(U), rtol=0, atol=1e-12)
    uniform_time = LogLogistic(P_mean=0.0, P_std=math.pi / math.sqrt(3)).sigma(U)
    torch.testing.assert_close(uniform_time / (1 + uniform_time), U, rtol=1e-12, atol=0)


def test_cosine_takes_the_levels_of_iddpm_at_even_quantiles():
    """All but the first of the table, whose step is clipped to C_1."""
    M = 1000
    levels = torch.tensor(plain_table(M)[1:M], dtype=torch.float64)
    quantiles = (M - torch.arange(1, M, dtype=torch.float64)) / (M - 1)
    sigma = Cosine(sigma_max=levels[0].item()).sigma(quantiles)
    torch.testing.assert_close(sigma, levels, rtol=1e-9, atol=0)


@pytest.mark.parametrize("noise", TRAINING_NOISES, ids=name)
def test_the_largest_and_smallest_uniform_numbers_give_usable_levels(noise):
    extremes = torch.tensor([[2.0**-33, 0.5], [0.7, 1 - 2.0**-33]], dtype=torch.float64)
    sigma = noise.sigma(extremes)
    assert sigma.shape == extremes.shape
    assert bool((sigma.isfinite() & (sigma > 0)).all())


def test_every_distribution_is_compared_with_a_known_one():
    assert {noise.kind for noise, _ in CASES} | {"iddpm"} == {noise.kind for noise in TRAINING_NOISES}


def test_the_weights_of_table_1_and_of_the_flow():
    sigma = torch.logspace(-3, 3, 20, dtype=torch.float64)
    assert InverseVariance().weight(sigma, 0.5).tolist() == pytest.approx([1 / s**2 for s in sigma.tolist()])
    expected = [(s**2 + 0.5**2) / (s * 0.5) ** 2 for s in sigma.tolist()]
    assert EDMWeighting().weight(sigma, 0.5).tolist() == pytest.approx(expected)
    expected = [((1 + s) / s) ** 2 for s in sigma.tolist()]
    assert RectifiedFlowWeighting().weight(sigma, 0.5).tolist() == pytest.approx(expected)
    assert {weighting.kind for weighting in WEIGHTINGS} == {"edm", "inverse_variance", "flow"}


@pytest.mark.parametrize(
    ("key", "make"),
    [
        ("P_std", lambda: LogNormal(P_std=0.0)),
        ("sigma_min", lambda: LogUniform(sigma_min=0.0)),
        ("sigma_min", lambda: LogUniform(sigma_min=200.0)),
        ("epsilon_t", lambda: VPUniformTime(epsilon_t=1.0)),
        ("beta_d", lambda: VPUniformTime(beta_d=-1.0)),
        ("M", lambda: IDDPMLevels(M=1)),
        ("C_1", lambda: IDDPMLevels(C_1=2.0)),
        ("epsilon_t", lambda: RectifiedFlowUniformTime(epsilon_t=0.0)),
        ("P_std", lambda: LogLogistic(P_std=-1.0)),
        ("sigma_max", lambda: Cosine(sigma_max=math.inf)),
        ("C_2", lambda: Cosine(C_2=-0.1)),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_the_name_of_their_key(key, make):
    with pytest.raises(ValueError, match=rf"^{key}: .*\(got "):
        make()
