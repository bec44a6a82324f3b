"""Adaptive steps, by the real plan: near the exact map, counted for each sample, the same bits in any company."""

import math

import pytest
import torch
from torch import Tensor, nn

from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.plans import AdaptivePlan
from pipeline.diffusion.preconditioning import EDMPreconditioning
from pipeline.diffusion.sampling import Sampler, count_nfe, sample
from pipeline.diffusion.schedules import VE, VP, Linear, Unscaled, VPScaling
from pipeline.diffusion.seeds import INITIAL, draw, normal
from pipeline.diffusion.solvers import BogackiShampine, DormandPrince, Euler, Heun, Step
from pipeline.diffusion.stochasticity import Churn, Restart
from pipeline.diffusion.timesteps import AdaptiveSteps, NoiseLevels
from pipeline.errors import RunFailedError
from pipeline.networks import MLP
from tests.diffusion.mixture import Mixture
from tests.diffusion.parts import EMBEDDED, SOLVERS, name

MIXTURE = Mixture(std=0.5)
ANY = NoiseLevels()
COUPLES = [(Linear(), Unscaled()), (VP(), VPScaling()), (VE(), Unscaled())]
COUPLE_IDS = ["linear", "vp", "ve"]
SHAPE = (1, 1, 2)  # few elements, so that samples differ in what they cost
SEEDS = torch.arange(24)
UNSCALED = Unscaled()


def exact(seeds: Tensor, shape=SHAPE) -> Tensor:
    """The quantile map from 80 to 0.002, and the Euler step to 0 that all samplers end with."""
    high, low = torch.tensor(80.0, dtype=torch.float64), torch.tensor([0.002], dtype=torch.float64)
    at_low = MIXTURE.transport(80 * normal(seeds, draw(INITIAL, 0), shape), high, low)
    return MIXTURE.denoise(at_low, low.expand(len(seeds)))


def sampler_of(couple, solver, tolerance: float, **control) -> Sampler:
    steps = AdaptiveSteps(rtol=tolerance, atol=tolerance, **control)
    return Sampler(timesteps=steps, solver=solver, schedule=couple[0], scaling=couple[1])


@pytest.mark.parametrize("solver", EMBEDDED, ids=name)
@pytest.mark.parametrize("couple", COUPLES, ids=COUPLE_IDS)
def test_the_error_follows_the_tolerance(couple, solver):
    goal, errors, costs = exact(SEEDS), [], []
    for tolerance in (1e-2, 1e-4, 1e-6):
        images, nfe = sample(MIXTURE.denoise, ANY, sampler_of(couple, solver, tolerance), SEEDS, SHAPE)
        errors.append(float((images - goal).square().mean().sqrt()))
        costs.append(float(nfe.double().mean()))
        assert errors[-1] < 10 * tolerance, (tolerance, errors)
    assert errors[0] > 3 * errors[1] > 15 * errors[2], errors
    assert costs[0] < costs[1] < costs[2]


@pytest.mark.parametrize("solver", EMBEDDED, ids=name)
def test_what_is_counted_is_what_each_sample_was_asked_for(solver):
    """The denoiser sees whole batches; a sample is asked where its place holds something of its own."""
    calls = []

    def denoise(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        calls.append(len(x))
        return MIXTURE.denoise(x, sigma)

    sampler = sampler_of(COUPLES[0], solver, 1e-5)
    nfe = sample(denoise, ANY, sampler, SEEDS, SHAPE).nfe
    assert set(calls) == {len(SEEDS)}
    assert nfe.unique().numel() > 2, "samples differ in cost"
    assert int(nfe.max()) <= len(calls) < int(nfe.sum())
    alone = [int(sample(MIXTURE.denoise, ANY, sampler, SEEDS[i : i + 1], SHAPE).nfe) for i in range(5)]
    assert nfe[:5].tolist() == alone
    assert count_nfe(sampler, ANY) is None


@pytest.mark.parametrize("control", [{}, {"pcoeff": 0.0, "icoeff": 1.0, "factor_max": 8.0}, {"dcoeff": 0.1}],
                         ids=["pi", "i", "pid"])  # fmt: skip
@pytest.mark.parametrize("couple", COUPLES, ids=COUPLE_IDS)
def test_a_sample_does_not_depend_on_its_companions(couple, control):
    seeds = torch.tensor([7, 1, 2**40, *range(30, 47)])
    sampler = sampler_of(couple, BogackiShampine(), 0.02, **control)
    together = sample(MIXTURE.denoise, ANY, sampler, seeds, (1, 3, 5))
    for chosen in ([0], [2], [6, 1, 3], list(range(16))):
        alone = sample(MIXTURE.denoise, ANY, sampler, seeds[chosen], (1, 3, 5))
        assert torch.equal(alone.images, together.images[chosen])
        assert torch.equal(alone.nfe, together.nfe[chosen])


def small_network() -> Denoiser:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MLP(hidden=32).build(4, 1, 0)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.2)
    return Denoiser(network.requires_grad_(False), EDMPreconditioning(), 0.5)


@pytest.mark.parametrize("solver", EMBEDDED, ids=name)
def test_with_a_real_network_only_the_place_in_the_batch_counts_and_not_the_company(solver):
    """The bits of a matrix product may depend on its size and on the row, never on what stands in other rows."""
    denoiser = small_network()
    sampler = sampler_of(COUPLES[0], solver, 0.03)
    shape = (1, 4, 4)
    one = sample(denoiser, ANY, sampler, torch.tensor([5, 8, 21, 34, 55]), shape)
    two = sample(denoiser, ANY, sampler, torch.tensor([5, 1000, 21, 1002, 1003]), shape)
    assert one.nfe.unique().numel() > 1, "some go on while others have arrived"
    for place in (0, 2):
        assert torch.equal(one.images[place], two.images[place])
        assert one.nfe[place] == two.nfe[place]
    assert not torch.equal(one.images[1], two.images[1])


def test_labels_stay_with_their_samples_when_some_have_arrived():
    sigma_min = torch.tensor([0.5], dtype=torch.float64)

    def denoise(x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        # Data are a Gaussian whose width is the label: the wider, the more steps.
        variance = labels.double().reshape(-1, 1, 1, 1) ** 2
        return x * variance / (variance + sigma.reshape(-1, 1, 1, 1) ** 2)

    labels, seeds = torch.tensor([1, 9, 3, 30]), torch.arange(4)
    sampler = sampler_of(COUPLES[0], DormandPrince(), 1e-6, sigma_min=0.5)
    images, nfe = sample(denoise, ANY, sampler, seeds, SHAPE, labels=labels)
    start = 80 * normal(seeds, draw(INITIAL, 0), SHAPE)
    width = labels.double().reshape(-1, 1, 1, 1)
    at_end = start * ((width**2 + 0.5**2) / (width**2 + 80.0**2)).sqrt()
    expected = denoise(at_end, sigma_min.expand(4), labels)
    assert nfe.unique().numel() > 1
    torch.testing.assert_close(images, expected, rtol=1e-4, atol=1e-5)


def judged(control: AdaptiveSteps, errors: list[float], scaling=UNSCALED) -> list[float]:
    """The levels that a plan of one sample asks for, when its errors (in all elements, at x = 0) are these."""
    plan = AdaptivePlan(control, torch.tensor([80.0, 0.002, 0.0], dtype=torch.float64), 3, scaling, 1)
    levels = []
    for error in errors:
        move = plan.next()
        levels.append(float(move.sigma_next))
        plan.judge(
            Step(torch.zeros(1, 1, 1, 2, dtype=torch.float64), (), torch.full((1, 1, 1, 2), error, dtype=torch.float64))
        )
    return levels


def test_the_controller_is_the_formula():
    """Written out for one sample: beta_1 = P + I + D, beta_2 = -(P + 2 D), beta_3 = D, over the order of the error."""
    control = AdaptiveSteps(
        atol=0.1, pcoeff=0.3, icoeff=0.4, dcoeff=0.05, initial_step=0.4, safety=0.8, factor_min=0.1, factor_max=3.0
    )
    errors = [0.05, 0.08, 0.3, 0.06, 0.0, 0.09]  # the third one is over the tolerance
    sigma, h, past, levels = 80.0, 0.4, [1.0, 1.0], []
    for error in errors:
        levels.append(sigma * math.exp(-h))
        norm = max(error / 0.1, 1e-20)
        wanted = norm**0.75 * past[0] ** -0.4 * past[1] ** 0.05
        factor = max(0.1, min(0.8 * wanted ** (-1 / 3), 3.0 if norm <= 1 else 0.8))
        if norm <= 1:
            sigma, past = levels[-1], [norm, past[0]]
        h *= factor
    found = judged(control, errors)
    assert found == pytest.approx(levels, rel=1e-12)
    assert found[3] > found[2], "tried again, with a shorter step"


def test_the_tolerance_is_that_of_the_data_whatever_the_scaling():
    """An error of atol s(t) in a state scaled by s(t) is one of atol in the data: the step is just kept."""
    control = AdaptiveSteps(atol=0.1, initial_step=1.0)
    scale = 1 / math.sqrt(1 + (80 / math.e) ** 2)
    kept, rejected = (judged(control, [part * 0.1 * scale, 0.0], VPScaling()) for part in (0.999, 1.001))
    assert kept[1] < kept[0]
    assert rejected[1] > rejected[0]


@pytest.mark.parametrize("solver", [solver for solver in SOLVERS if solver not in EMBEDDED], ids=repr)
def test_a_solver_that_cannot_tell_its_error_is_refused(solver):
    with pytest.raises(ValueError, match=r"^solver: .*bogacki_shampine or dormand_prince.* \(got " + solver.kind):
        Sampler(timesteps=AdaptiveSteps(), solver=solver)


@pytest.mark.parametrize("stochasticity", [Churn(), Restart()], ids=name)
def test_stochasticity_that_needs_steps_known_ahead_is_refused(stochasticity):
    with pytest.raises(ValueError, match=rf"^stochasticity: .* {stochasticity.kind}, .* use kind none"):
        Sampler(timesteps=AdaptiveSteps(), solver=BogackiShampine(), stochasticity=stochasticity)


def test_too_many_steps_stop_the_run_with_a_sentence():
    sampler = sampler_of(COUPLES[0], BogackiShampine(), 1e-3, max_steps=5)
    with pytest.raises(RunFailedError, match=r"3 of 3 samples .* have not arrived after 5 steps.*; raise .*max_steps"):
        sample(MIXTURE.denoise, ANY, sampler, torch.arange(3), SHAPE)
    enough = int(sample(MIXTURE.denoise, ANY, sampler_of(COUPLES[0], BogackiShampine(), 1e-3), SEEDS, SHAPE).nfe.max())
    sampler = sampler_of(COUPLES[0], BogackiShampine(), 1e-3, max_steps=enough)
    assert sample(MIXTURE.denoise, ANY, sampler, SEEDS, SHAPE).images.isfinite().all()


def test_a_denoiser_whose_answers_are_no_numbers_stops_the_run():
    with pytest.raises(RunFailedError, match=r"2 of 2 samples .* not finite"):
        sample(lambda x, sigma, _: x * torch.nan, ANY, sampler_of(COUPLES[0], DormandPrince(), 1e-2), SEEDS[:2], SHAPE)


@pytest.mark.parametrize("solver", [Heun(), Euler()], ids=name)
def test_fixed_grids_take_any_solver(solver):
    assert Sampler(solver=solver).solver == solver
