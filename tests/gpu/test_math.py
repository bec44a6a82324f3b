"""The math on a GPU: the same numbers as on the CPU, which other tests hold to closed forms."""

from typing import Any

import pytest
import torch

from pipeline.diffusion.sampling import Sampler, sample
from pipeline.diffusion.seeds import Noise, normal, philox, uniform
from pipeline.diffusion.solvers import BogackiShampine, DormandPrince
from pipeline.diffusion.timesteps import AdaptiveSteps, EDMSteps, NoiseLevels
from pipeline.engine.devices import fixed_arithmetic
from tests.diffusion.mixture import Mixture
from tests.diffusion.parts import PRECONDITIONINGS, SOLVERS, STOCHASTICITIES, TRAINING_NOISES, name

GPU = "cuda"
SHAPE = (2, 5, 5)
SEEDS = torch.arange(7)


def denoise(x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
    return Mixture().denoise(x, sigma.to(x.device))


def test_random_words_are_the_same_integers() -> None:
    key = torch.tensor([0xA4093822]), torch.tensor([0x299F31D0])
    counter = tuple(torch.tensor([word]) for word in (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344))
    there = philox(tuple(word.to(GPU) for word in key), tuple(word.to(GPU) for word in counter))  # type: ignore[arg-type]
    # The known answers of the paper's own test vectors (Random123, kat_vectors).
    assert [f"{int(word):08x}" for word in there] == ["d16cfe09", "94fdcceb", "5001e420", "24126ea1"]
    assert uniform(SEEDS.to(GPU), 5, 100).cpu().equal(uniform(SEEDS, 5, 100))


def test_noise_is_the_same_to_rounding() -> None:
    torch.testing.assert_close(
        normal(SEEDS.to(GPU), 3, (3, 8, 8)).cpu(), normal(SEEDS, 3, (3, 8, 8)), rtol=0, atol=1e-13
    )
    levels = torch.full((7,), 2.0, dtype=torch.float64), torch.full((7,), 0.7, dtype=torch.float64)
    here, there = (Noise(seeds, (4,)).between(*levels) for seeds in (SEEDS, SEEDS.to(GPU)))
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=1e-12)


@pytest.mark.parametrize("stochasticity", STOCHASTICITIES, ids=name)
@pytest.mark.parametrize("solver", SOLVERS, ids=name)
def test_samples_are_those_of_the_cpu(solver: Any, stochasticity: Any) -> None:
    sampler = Sampler(timesteps=EDMSteps(num_steps=8), solver=solver, stochasticity=stochasticity)
    _compare(sampler, 1e-9)


@pytest.mark.parametrize("solver", [BogackiShampine(), DormandPrince()], ids=name)
def test_samples_of_adaptive_steps_are_too(solver: Any) -> None:
    _compare(Sampler(timesteps=AdaptiveSteps(), solver=solver), 1e-6)


def _compare(sampler: Sampler, tolerance: float) -> None:
    with fixed_arithmetic(1):
        here, nfe = sample(denoise, NoiseLevels(), sampler, SEEDS, SHAPE)
        there, nfe_there = sample(denoise, NoiseLevels(), sampler, SEEDS.to(GPU), SHAPE)
        again = sample(denoise, NoiseLevels(), sampler, SEEDS.flip(0).to(GPU), SHAPE).images.flip(0)
    assert there.device.type == GPU
    torch.testing.assert_close(there.cpu(), here, rtol=tolerance, atol=tolerance)
    assert nfe.equal(nfe_there)
    assert again.equal(there)


@pytest.mark.parametrize("part", PRECONDITIONINGS, ids=name)
def test_coefficients_are_those_of_the_cpu(part: Any) -> None:
    levels = part.levels()
    sigma = torch.linspace(max(levels.sigma_min, 0.01), min(levels.sigma_max, 50.0), 33, dtype=torch.float64)
    for here, there in zip(part.coefficients(sigma, 0.5), part.coefficients(sigma.to(GPU), 0.5), strict=True):
        torch.testing.assert_close(there.cpu(), here, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("part", TRAINING_NOISES, ids=name)
def test_noise_levels_of_training_are_those_of_the_cpu(part: Any) -> None:
    u = torch.linspace(0.01, 0.99, 33, dtype=torch.float64)
    torch.testing.assert_close(part.sigma(u.to(GPU)).cpu(), part.sigma(u), rtol=1e-11, atol=1e-12)
