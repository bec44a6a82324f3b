"""Churn against Algorithm 2 of the paper, written out plainly, and against the marginals it must keep."""

import math

import pytest
import torch

from pipeline.diffusion.sampling import Sampler, sample
from pipeline.diffusion.schedules import VP, Linear, Unscaled, VPScaling
from pipeline.diffusion.seeds import CHURN, INITIAL, draw, normal
from pipeline.diffusion.solvers import Euler, Heun, Midpoint
from pipeline.diffusion.stochasticity import Churn, Deterministic
from pipeline.diffusion.timesteps import EDMSteps, ExplicitSteps, NoiseLevels, VPSteps, grid
from tests.diffusion.mixture import Mixture
from tests.diffusion.test_solvers import MIXTURE as SOLVER_MIXTURE
from tests.diffusion.test_solvers import plain_linear, plain_vp, plain_vp_time

MIXTURE = Mixture(std=0.5)
ANY = NoiseLevels()


def noise_of(seed: int, number: int) -> float:
    return normal(torch.tensor([seed]), number, (1, 1, 1)).item()


def plain_algorithm_2(seed: int, sigmas: list[float], churn: Churn, vp: bool, heun: bool, limit: float) -> float:
    """Algorithm 2 of the paper, with sigma(t) and s(t) of the VP column or none (section D.2)."""

    def scale(sigma: float) -> float:
        return 1 / math.sqrt(1 + sigma**2) if vp else 1.0

    velocity, time = (plain_vp, plain_vp_time) if vp else (plain_linear, lambda sigma: sigma)
    x = sigmas[0] * scale(sigmas[0]) * noise_of(seed, draw(INITIAL, 0))
    num_steps = len(sigmas) - 1
    for i in range(num_steps):
        sigma, sigma_next = sigmas[i], sigmas[i + 1]
        gamma = min(churn.S_churn / num_steps, math.sqrt(2) - 1) if churn.S_min <= sigma <= churn.S_max else 0.0
        sigma_hat = min(sigma + gamma * sigma, limit)
        epsilon = churn.S_noise * noise_of(seed, draw(CHURN, i))
        added = math.sqrt(max(sigma_hat**2 - sigma**2, 0.0)) * scale(sigma_hat)
        x = scale(sigma_hat) / scale(sigma) * x + added * epsilon
        t_hat, t_next = time(sigma_hat), time(sigma_next)
        d = velocity(x, t_hat)
        x_next = x + (t_next - t_hat) * d
        if heun and t_next != 0:
            x_next = x + (t_next - t_hat) * (d + velocity(x_next, t_next)) / 2
        x = x_next
    return x


@pytest.mark.parametrize("heun", [False, True], ids=["euler", "heun"])
@pytest.mark.parametrize("vp", [False, True], ids=["linear", "vp"])
@pytest.mark.parametrize(
    "churn",
    [Churn(S_churn=3), Churn(S_churn=80, S_min=0.05, S_max=50, S_noise=1.003), Churn(S_churn=5, S_min=90, S_max=100)],
    ids=["little", "paper", "nowhere"],
)
@pytest.mark.parametrize("limit", [math.inf, 80.0], ids=["any", "limited"])
def test_churn_is_algorithm_2(churn, vp, heun, limit):
    sampler = Sampler(
        timesteps=ExplicitSteps(sigmas=(75.0, 60.0, 20.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)),
        solver=Heun() if heun else Euler(),
        schedule=VP() if vp else Linear(),
        scaling=VPScaling() if vp else Unscaled(),
        stochasticity=churn,
    )
    network = NoiseLevels(0.0, limit)
    seeds = torch.tensor([0, 5, 123456789])
    images = sample(SOLVER_MIXTURE.denoise, network, sampler, seeds, (1, 1, 1)).images.flatten().tolist()
    sigmas = grid(sampler.timesteps, network).tolist()
    expected = [plain_algorithm_2(seed, sigmas, churn, vp, heun, limit) for seed in seeds.tolist()]
    assert images == pytest.approx(expected, rel=1e-9, abs=1e-10)


@pytest.mark.parametrize("churn", [Churn(S_churn=0), Churn(S_min=200, S_max=300)], ids=["no-churn", "no-level"])
def test_churn_of_nothing_is_the_deterministic_sampler_bit_for_bit(churn):
    def images(stochasticity):
        sampler = Sampler(schedule=VP(), scaling=VPScaling(), stochasticity=stochasticity)
        return sample(MIXTURE.denoise, ANY, sampler, torch.arange(5), (1, 4, 4)).images

    assert torch.equal(images(churn), images(Deterministic()))


def test_churn_changes_the_image_and_is_repeated_by_the_seed():
    def images(stochasticity):
        return sample(MIXTURE.denoise, ANY, Sampler(stochasticity=stochasticity), torch.arange(5), (1, 4, 4)).images

    assert torch.equal(images(Churn()), images(Churn()))
    assert (images(Churn()) - images(Deterministic())).abs().mean().item() > 0.1


@pytest.mark.parametrize("solver", [Heun(), Midpoint()], ids=["heun", "midpoint"])
@pytest.mark.parametrize("column", ["edm", "vp"])
def test_churn_keeps_the_marginals(solver, column):
    vp = column == "vp"
    sampler = Sampler(
        timesteps=VPSteps(num_steps=100) if vp else EDMSteps(num_steps=100),
        solver=solver,
        schedule=VP() if vp else Linear(),
        scaling=VPScaling() if vp else Unscaled(),
        stochasticity=Churn(S_churn=20),
    )
    images = sample(MIXTURE.denoise, ANY, sampler, torch.arange(4), (1, 50, 100)).images
    assert images.mean().abs().item() < 0.04
    assert images.std().item() == pytest.approx(MIXTURE.total_std, rel=0.015)
    assert (images**4).mean().item() == pytest.approx(1 + 6 * 0.5**2 + 3 * 0.5**4, rel=0.05)


def test_raised_levels_are_those_of_a_discrete_network():
    asked = []

    def denoise(x, sigma, labels):
        asked.append(sigma[0].item())
        return MIXTURE.denoise(x, sigma)

    known = torch.tensor([20.0, 13.0, 10.0, 5.0, 2.0, 1.0], dtype=torch.float64)
    network = NoiseLevels(1.0, 20.0, lambda sigma: known[(known - sigma[:, None]).abs().argmin(dim=1)])
    sampler = Sampler(
        timesteps=ExplicitSteps(sigmas=(20.0, 10.0, 5.0, 1.0)), solver=Euler(), stochasticity=Churn(S_churn=1.2)
    )
    sample(denoise, network, sampler, torch.arange(2), (1, 2, 2))
    assert asked == [20.0, 13.0, 5.0, 1.0], (
        "raised by 30 %: 26 is too much, 13 is there, 6.5 and 1.3 are nearest to where they came from"
    )


@pytest.mark.parametrize(
    ("key", "make"),
    [
        ("S_churn", lambda: Churn(S_churn=-1.0)),
        ("S_noise", lambda: Churn(S_noise=-1.0)),
        ("S_churn", lambda: Churn(S_churn=math.nan)),
        ("S_min", lambda: Churn(S_min=-0.1)),
        ("S_min", lambda: Churn(S_min=2.0, S_max=1.0)),
    ],
)
def test_churn_that_makes_no_sense_is_refused_by_the_name_of_its_key(key, make):
    with pytest.raises(ValueError, match=rf"^{key}: .*\(got "):
        make()
