"""Restart against its algorithm written out plainly, its published costs, and the marginals it must keep."""

import math

import pytest
import torch

from pipeline.diffusion.preconditioning import IDDPMPreconditioning
from pipeline.diffusion.sampling import Sampler, count_nfe, sample
from pipeline.diffusion.schedules import VP, Linear, Unscaled, VPScaling
from pipeline.diffusion.seeds import RENOISE, draw, normal
from pipeline.diffusion.solvers import BogackiShampine, Euler, Heun
from pipeline.diffusion.stochasticity import Restart, Segment
from pipeline.diffusion.timesteps import EDMSteps, ExplicitSteps, NoiseLevels, grid
from tests.diffusion.mixture import Mixture

MIXTURE = Mixture(std=0.5)
ANY = NoiseLevels()
SHAPE = (1, 2, 3)
IMAGENET = (
    Segment(sigma_min=19.35, sigma_max=40.79, N_restart=4, K=1),
    Segment(sigma_min=1.09, sigma_max=1.92, N_restart=4, K=1),
    Segment(sigma_min=0.59, sigma_max=1.09, N_restart=4, K=5),
    Segment(sigma_min=0.30, sigma_max=0.59, N_restart=4, K=5),
    Segment(sigma_min=0.06, sigma_max=0.30, N_restart=6, K=6),
)


def plain_walk(sigmas: list[float], segments: tuple[Segment, ...]) -> list[float]:
    """Algorithm 1 of the paper: at the level nearest to sigma_min, K times up to sigma_max and down an EDM grid."""
    visited = []
    for sigma in sigmas:
        visited.append(sigma)
        for segment in segments:
            bottom = min(sigmas[1:-1], key=lambda level: abs(level - segment.sigma_min))
            if bottom == sigma:
                high, low, n = segment.sigma_max ** (1 / 7), bottom ** (1 / 7), segment.N_restart
                visited += segment.K * [(high + i / (n - 1) * (low - high)) ** 7 for i in range(n)]
    return visited


@pytest.mark.parametrize(
    ("num_steps", "segments", "nfe"),
    [
        (18, (), 35),
        (18, Restart().segments, 43),  # CIFAR-10
        (18, (Segment(K=5),), 55),
        (18, (Segment(K=20),), 115),
        (36, IMAGENET, 203),  # ImageNet-64
    ],
)
def test_the_levels_are_the_papers_and_so_is_the_cost(num_steps, segments, nfe):
    restart = Restart(segments=segments)
    sigmas = grid(EDMSteps(num_steps=num_steps), ANY)
    assert restart.walk(sigmas, ANY).tolist() == pytest.approx(plain_walk(sigmas.tolist(), segments), rel=1e-12)
    sampler = Sampler(timesteps=EDMSteps(num_steps=num_steps), solver=Heun(), stochasticity=restart)
    assert count_nfe(sampler, ANY) == nfe


@pytest.mark.parametrize("solver", [Heun(), BogackiShampine()], ids=["heun", "bogacki_shampine"])
@pytest.mark.parametrize("couple", [(Linear(), Unscaled()), (VP(), VPScaling())], ids=["linear", "vp"])
def test_restart_keeps_the_marginals(couple, solver):
    segments = (Segment(sigma_min=0.1, sigma_max=3.0, N_restart=16, K=3),)
    sampler = Sampler(EDMSteps(num_steps=40), solver, *couple, Restart(segments=segments))
    images = sample(MIXTURE.denoise, ANY, sampler, torch.arange(3), (1, 80, 100)).images
    assert images.std().item() == pytest.approx(MIXTURE.total_std, rel=0.015)
    assert images.mean().abs().item() < 0.04
    assert (images**4).mean().item() == pytest.approx(1 + 6 * 0.5**2 + 3 * 0.5**4, rel=0.05)


@pytest.mark.parametrize("S_noise", [0.0, 1.0, 1.5])
def test_a_climb_adds_the_noise_between_the_levels_times_s_noise(S_noise):
    states = []
    sampler = Sampler(
        timesteps=ExplicitSteps(sigmas=(10.0, 2.0, 0.5)), solver=Euler(),
        stochasticity=Restart(segments=(Segment(sigma_min=2.0, sigma_max=6.0, N_restart=2, K=2),), S_noise=S_noise),
    )  # fmt: skip
    seeds = torch.arange(2)
    sample(MIXTURE.denoise, ANY, sampler, seeds, SHAPE, on_move=lambda move, x, _: states.append(x))
    assert len(states) == 3 + 2 * 2, "three steps; twice up and down"
    for move in (1, 3):
        added = S_noise * math.sqrt(6.0**2 - 2.0**2) * normal(seeds, draw(RENOISE, move), SHAPE)
        torch.testing.assert_close(states[move] - states[move - 1], added, rtol=1e-12, atol=1e-12)


def test_the_levels_of_a_climb_are_those_of_a_discrete_network():
    network = IDDPMPreconditioning().levels()
    sigmas = grid(EDMSteps(num_steps=9), network)
    walked = Restart(segments=(Segment(sigma_min=0.5, sigma_max=5.0, N_restart=4),)).walk(sigmas, network)
    assert len(walked) == len(sigmas) + 2 * 4
    assert torch.equal(network.round_sigma(walked[:-1]), walked[:-1])


@pytest.mark.parametrize(
    ("problem", "make"),
    [
        ("segments: sigma_max = 90 lies above", lambda: _walk(Segment(sigma_max=90.0), NoiseLevels(0.0, 80.0))),
        ("segments: sigma_max = 0.07 is not above the grid's nearest level", lambda: _walk(
            Segment(sigma_min=0.01, sigma_max=0.07), ANY, sigmas=(10.0, 0.2))),
        ("segments: a time grid of one step", lambda: _walk(Segment(), ANY, sigmas=(10.0,))),
        ("segments: N_restart = 500 levels .* use fewer", lambda: _walk(
            Segment(N_restart=500), IDDPMPreconditioning().levels())),
        (r"sigma_min: .*\(got ", lambda: Segment(sigma_min=0.5)),
        (r"N_restart: .*\(got 1\)", lambda: Segment(N_restart=1)),
        (r"K: .*\(got -1\)", lambda: Segment(K=-1)),
        (r"rho: .*\(got 0", lambda: Segment(rho=0.0)),
        (r"S_noise: .*\(got -1", lambda: Restart(S_noise=-1.0)),
    ],
)  # fmt: skip
def test_what_cannot_be_walked_is_refused_by_the_name_of_its_key(problem, make):
    with pytest.raises(ValueError, match=f"^{problem}"):
        make()


def _walk(segment: Segment, network: NoiseLevels, sigmas: tuple[float, ...] = (10.0, 0.2, 0.05)) -> None:
    Restart(segments=(segment,)).walk(grid(ExplicitSteps(sigmas=sigmas), network), network)
