"""beta(t): integrals in closed form against sums, and the noise scale function of ER-SDE."""

import math

import pytest
import torch
from torch import Tensor

from pipeline.diffusion.randomness import Constant, ExtendedReverse, Song, Window, Zero
from tests.diffusion.parts import BETAS, name

# beta as a multiple of sigma_dot / sigma, written out.
RATES = {
    "song": lambda sigma: torch.ones_like(sigma),
    "zero": lambda sigma: torch.zeros_like(sigma),
    "constant": lambda sigma: torch.ones_like(sigma),
    "window": lambda sigma: ((sigma >= 0.05) & (sigma <= 1.0)).double(),
    "er_sde_5": lambda sigma: 0.3 * sigma**0.3 * torch.exp(sigma**0.3) / (torch.exp(sigma**0.3) + 10),
}


def level(sigma: float) -> Tensor:
    return torch.tensor([sigma], dtype=torch.float64)


@pytest.mark.parametrize("beta", BETAS, ids=name)
@pytest.mark.parametrize(("sigma", "sigma_next"), [(80.0, 0.002), (1.5, 0.7), (0.9, 0.1), (40.0, 2.0), (0.04, 0.01)])
def test_the_decay_is_the_integral_of_beta(beta, sigma, sigma_next):
    levels = torch.linspace(math.log(sigma), math.log(sigma_next), 200_001, dtype=torch.float64).exp()
    middle = (levels[:-1] * levels[1:]).sqrt()
    expected = (RATES[beta.kind](middle) * (levels[:-1] / levels[1:]).log()).sum()
    decay = beta.decay(level(sigma), level(sigma_next))
    assert decay.item() == pytest.approx(expected.item(), abs=2e-4)


@pytest.mark.parametrize("beta", BETAS, ids=name)
def test_the_decays_of_parts_add_up(beta):
    levels = torch.tensor([80.0, 3.0, 1.0, 0.6, 0.05, 0.03], dtype=torch.float64)
    parts = beta.decay(levels[:-1], levels[1:])
    assert parts.sum().item() == pytest.approx(beta.decay(levels[:1], levels[-1:]).item(), rel=1e-13)
    assert bool((parts >= 0).all())


def test_er_sde_5_has_the_papers_noise_scale_function():
    def phi(sigma: float) -> float:
        return sigma * (math.exp(sigma**0.3) + 10)

    decay = ExtendedReverse().decay(level(7.0), level(0.2))
    assert decay.item() == pytest.approx(math.log(phi(7.0) / phi(0.2)) - math.log(7.0 / 0.2), rel=1e-12)


def test_factors_scale():
    ends = level(7.0), level(0.2)
    assert Constant(factor=0.3).decay(*ends).item() == pytest.approx(0.3 * math.log(35))
    assert torch.equal(Constant().decay(*ends), Song().decay(*ends))
    assert torch.equal(Constant(factor=0.0).decay(*ends), Zero().decay(*ends))
    assert torch.equal(Window(sigma_lo=0.0, sigma_hi=math.inf).decay(*ends), Song().decay(*ends))
    assert Window(factor=2.0, sigma_lo=0.5, sigma_hi=3.0).decay(*ends).item() == pytest.approx(2 * math.log(6))


@pytest.mark.parametrize(
    ("key", "make"),
    [
        ("factor", lambda: Constant(factor=-0.1)),
        ("factor", lambda: Constant(factor=math.nan)),
        ("factor", lambda: Window(factor=math.inf)),
        ("sigma_lo", lambda: Window(sigma_lo=2.0, sigma_hi=1.0)),
        ("sigma_lo", lambda: Window(sigma_lo=-1.0)),
    ],
)
def test_a_beta_that_makes_no_sense_is_refused_by_the_name_of_its_key(key, make):
    with pytest.raises(ValueError, match=rf"^{key}: .*\(got "):
        make()
