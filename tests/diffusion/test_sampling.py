"""The loop: counting, one step, independence of the batch, labels, marginals."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.preconditioning import EDMPreconditioning, IDDPMPreconditioning
from pipeline.diffusion.sampling import Sampler, count_nfe, sample
from pipeline.diffusion.schedules import VP, Linear, Unscaled, VPScaling
from pipeline.diffusion.seeds import INITIAL, draw, normal
from pipeline.diffusion.solvers import BogackiShampine, Euler, Heun
from pipeline.diffusion.stochasticity import Churn
from pipeline.diffusion.timesteps import AdaptiveSteps, EDMSteps, ExplicitSteps, NoiseLevels, grid
from tests.diffusion.mixture import Mixture
from tests.diffusion.parts import EMBEDDED, SCALINGS, SCHEDULES, SOLVERS, STOCHASTICITIES, TIMESTEPS, name

MIXTURE = Mixture(std=0.5)
ANY = NoiseLevels()
SHAPE = (1, 3, 5)
EVALUATIONS = {"euler": 1, "heun": 2, "midpoint": 2, "ralston": 2, "alpha": 2}  # of a step, from the papers


class Counting:
    """A denoiser that counts the samples it was asked for."""

    def __init__(self) -> None:
        self.calls = 0
        self.samples = 0

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        self.calls += 1
        self.samples += len(x)
        assert sigma.shape == (len(x),)
        assert x.dtype == sigma.dtype == torch.float64
        return MIXTURE.denoise(x, sigma)


@pytest.mark.parametrize("churn", [None, Churn(S_churn=10)], ids=["deterministic", "churn"])
@pytest.mark.parametrize("num_steps", [1, 2, 7])
@pytest.mark.parametrize("solver", SOLVERS, ids=name)
def test_the_count_is_what_the_network_was_asked(solver, num_steps, churn):
    extra = {"stochasticity": churn} if churn else {}
    sampler = Sampler(timesteps=EDMSteps(num_steps=num_steps), solver=solver, **extra)
    denoise = Counting()
    nfe = sample(denoise, ANY, sampler, torch.arange(3), SHAPE).nfe
    assert nfe.dtype == torch.int64
    assert nfe.tolist() == [denoise.calls] * 3
    assert denoise.samples == int(nfe.sum())
    assert count_nfe(sampler, ANY) == denoise.calls
    if solver.kind in EVALUATIONS:
        assert denoise.calls == EVALUATIONS[solver.kind] * (num_steps - 1) + 1, "Euler N, the others 2 N - 1"


@pytest.mark.parametrize("solver", SOLVERS, ids=name)
def test_a_solver_spends_what_it_states_from_1_to_20_steps(solver):
    for num_steps in range(1, 21):
        nfe = count_nfe(Sampler(timesteps=EDMSteps(num_steps=num_steps), solver=solver), ANY)
        first = int(solver in EMBEDDED and num_steps > 1)  # later steps begin with the last slope of the one before
        assert nfe == solver.evaluations * (num_steps - 1) + 1 + first


@pytest.mark.parametrize("scaling", SCALINGS, ids=name)
@pytest.mark.parametrize("solver", SOLVERS, ids=name)
def test_one_step_is_the_denoiser_of_the_noise(solver, scaling):
    """On the linear schedule Euler's step to sigma = 0 lands on D, without scaling exactly so."""
    sampler = Sampler(timesteps=EDMSteps(num_steps=1), solver=solver, scaling=scaling)
    images, nfe = sample(MIXTURE.denoise, ANY, sampler, torch.arange(6), SHAPE)
    noisy = 80 * normal(torch.arange(6), draw(INITIAL, 0), SHAPE)
    if scaling == Unscaled():
        expected = MIXTURE.denoise(noisy, torch.full((6,), 80.0, dtype=torch.float64))
        torch.testing.assert_close(images, expected, rtol=0, atol=1e-12)
    assert bool(images.isfinite().all())
    assert nfe.tolist() == [1] * 6


@pytest.mark.parametrize("steps", TIMESTEPS, ids=name)
def test_the_state_starts_as_noise_and_visits_the_levels_of_the_grid(steps):
    visited, states = [], []

    def watch(move: int, x: Tensor, sigma_next: Tensor) -> None:
        assert move == len(visited)
        visited.append(sigma_next.tolist())
        states.append(x)

    seen = []

    def denoise(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        seen.append((x, sigma))
        return MIXTURE.denoise(x, sigma)

    seeds = torch.tensor([4, 8])
    images = sample(denoise, ANY, Sampler(timesteps=steps, solver=Euler()), seeds, SHAPE, on_move=watch).images
    sigmas = grid(steps, ANY)
    assert visited == [[sigma, sigma] for sigma in sigmas[1:].tolist()]
    assert torch.equal(torch.stack([sigma for _, sigma in seen])[:, 0], sigmas[:-1])
    assert torch.equal(seen[0][0], sigmas[0] * normal(seeds, draw(INITIAL, 0), SHAPE))
    assert torch.equal(states[-1], images)


class Elementwise(nn.Module):
    """A network of which every element stands alone, as no real one does: bits can't depend on the batch."""

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        column = (-1, 1, 1, 1)
        return torch.sin(3 * x + c_noise.reshape(column)) + 0.1 * labels.to(x.dtype).reshape(column)


BASE = {
    "schedule": Linear(), "scaling": Unscaled(), "solver": Heun(), "timesteps": EDMSteps(num_steps=5)
}  # fmt: skip
VARIANTS = [
    *[{"schedule": schedule, "scaling": scaling} for schedule in SCHEDULES for scaling in SCALINGS],
    *[{"solver": solver, "schedule": VP(), "scaling": VPScaling()} for solver in SOLVERS],
    *[{"stochasticity": part, "schedule": VP(), "scaling": VPScaling()} for part in STOCHASTICITIES],
    *[{"timesteps": steps} for steps in TIMESTEPS],
    *[{"timesteps": AdaptiveSteps(rtol=0.1, atol=0.1, sigma_min=0.5), "solver": solver} for solver in EMBEDDED],
    {"solver": Euler(), "schedule": VP(), "scaling": VPScaling(), "first_step": "analytic"},
]


@pytest.mark.parametrize("preconditioning", [EDMPreconditioning(), IDDPMPreconditioning()], ids=name)
@pytest.mark.parametrize(
    "variant", VARIANTS, ids=lambda v: "-".join(f"{k}={getattr(p, 'kind', p)}" for k, p in v.items())
)
def test_a_seed_is_the_same_image_in_any_company_bit_for_bit(variant, preconditioning):
    denoiser = Denoiser(Elementwise(), preconditioning, 0.5)
    sampler = Sampler(**{**BASE, **variant})

    def images(seeds: Tensor) -> Tensor:
        return sample(denoiser, denoiser.levels, sampler, seeds, SHAPE, labels=seeds % 10).images

    seeds = torch.tensor([3, 2**40, 17, 0, *range(50, 69)])
    together = images(seeds)
    assert bool(together.isfinite().all())
    assert torch.equal(images(seeds), together), "the same call, the same bits"
    for chosen in ([0], [2], [22, 1, 5], list(range(16)), [*reversed(range(23))]):
        assert torch.equal(images(seeds[chosen]), together[chosen])


@pytest.mark.parametrize("scaling", SCALINGS, ids=name)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize(("solver", "nfe"), [(Euler(), 4), (Heun(), 8), (BogackiShampine(), 13)], ids=name)
def test_the_analytic_first_step_asks_no_network_at_the_top(solver, nfe, schedule, scaling):
    """There the noise is taken to be x / sqrt(1 + sigma^2); one evaluation less for any number of stages."""
    asked = []

    def denoise(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        asked.append(float(sigma.max()))
        return MIXTURE.denoise(x, sigma)

    sampler = Sampler(EDMSteps(num_steps=5), solver, schedule, scaling, first_step="analytic")
    images, counted = sample(denoise, ANY, sampler, torch.arange(3), SHAPE)
    assert counted.tolist() == [nfe] * 3
    assert count_nfe(sampler, ANY) == len(asked) == nfe
    assert max(asked) < 79.9

    def analytic_at_the_top(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        if sigma[0] < 79.9:
            return MIXTURE.denoise(x, sigma)
        column = sigma.reshape(-1, 1, 1, 1)
        return x - column * x / (1 + column**2).sqrt()

    expected = sample(analytic_at_the_top, ANY, replace(sampler, first_step="network"), torch.arange(3), SHAPE)
    torch.testing.assert_close(images, expected.images, rtol=1e-10, atol=1e-10)
    assert expected.nfe.tolist() == [nfe + 1] * 3


def test_a_sampler_of_one_step_asks_the_network_whatever_its_first_step():
    one, other = (Sampler(timesteps=EDMSteps(num_steps=1), first_step=first) for first in ("analytic", "network"))
    images, nfe = sample(MIXTURE.denoise, ANY, one, torch.arange(3), SHAPE)
    assert torch.equal(images, sample(MIXTURE.denoise, ANY, other, torch.arange(3), SHAPE).images)
    assert nfe.tolist() == [1] * 3


def test_an_analytic_first_step_that_is_rejected_costs_nothing_again():
    asked = []

    def denoise(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        asked.append(float(sigma))
        return MIXTURE.denoise(x, sigma)

    moves = []
    steps = AdaptiveSteps(rtol=1e-6, atol=1e-6, sigma_min=20.0, initial_step=1.4)
    sampler = Sampler(timesteps=steps, solver=BogackiShampine(), first_step="analytic")
    nfe = sample(denoise, ANY, sampler, torch.arange(1), SHAPE, on_move=lambda *move: moves.append(move)).nfe
    first = [torch.equal(x, moves[0][1]) for _, x, _ in moves]
    assert sum(first) > 1, "the first step was tried more than once"
    assert nfe.tolist() == [len(asked)]
    assert max(asked) < 79.9


def test_another_word_for_the_first_step_is_refused():
    with pytest.raises(ValueError, match=r"^first_step: .*\(got afs\)"):
        Sampler(first_step="afs")


def test_other_seeds_are_other_images():
    images = sample(MIXTURE.denoise, ANY, Sampler(), torch.arange(20), SHAPE).images
    assert images.flatten(1).unique(dim=0).shape[0] == 20


def test_labels_reach_the_denoiser():
    def towards_the_label(x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        return labels.to(x.dtype).reshape(-1, 1, 1, 1).expand_as(x)

    labels = torch.tensor([3, -1, 7])
    images = sample(towards_the_label, ANY, Sampler(), torch.arange(3), SHAPE, labels=labels).images
    torch.testing.assert_close(images, labels.double().reshape(3, 1, 1, 1).expand_as(images), rtol=0, atol=1e-9)


@pytest.mark.parametrize("scaling", SCALINGS, ids=name)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_the_samples_are_distributed_as_the_data(schedule, scaling):
    """20,000 draws: mean, standard deviation and fourth moment of the mixture, and the exact map of the noise.

    128 steps, for without scaling the vp and ve schedules are coarse at the top: with 48, ve is 3 % too narrow.
    """
    sampler = Sampler(timesteps=EDMSteps(num_steps=128), schedule=schedule, scaling=scaling)
    images = sample(MIXTURE.denoise, ANY, sampler, torch.arange(4), (1, 50, 100)).images
    std = MIXTURE.std
    assert images.mean().abs().item() < 5 * MIXTURE.total_std / math.sqrt(20_000)
    assert images.std().item() == pytest.approx(MIXTURE.total_std, rel=0.01)
    assert (images**4).mean().item() == pytest.approx(1 + 6 * std**2 + 3 * std**4, rel=0.05)
    start = 80 * normal(torch.arange(4), draw(INITIAL, 0), (1, 50, 100))
    exact = MIXTURE.transport(start, torch.tensor(80.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64))
    assert (images - exact).abs().max().item() < 0.05


def test_a_grid_that_the_network_cannot_take_is_refused_before_any_work():
    def never(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        raise AssertionError

    with pytest.raises(ValueError, match=r"^sigmas: "):
        sample(never, NoiseLevels(0.1, 50.0), Sampler(timesteps=ExplicitSteps()), torch.arange(2), SHAPE)
