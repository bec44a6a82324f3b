"""Guidance against closed forms: of the formula, of the guided flow between Gaussians, of the count."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.diffusion.guidance import Autoguidance, ClassifierFree, Guidance, Unguided
from pipeline.diffusion.preconditioning import (
    EDMPreconditioning,
    IDDPMPreconditioning,
    VEPreconditioning,
    VPPreconditioning,
    per_sample,
)
from pipeline.diffusion.sampling import Sampler, count_nfe, sample
from pipeline.diffusion.schedules import VP, VPScaling
from pipeline.diffusion.seeds import INITIAL, draw, normal
from pipeline.diffusion.solvers import Euler, Heun
from pipeline.diffusion.timesteps import EDMSteps, ExplicitSteps, NoiseLevels, grid, iddpm_levels
from tests.diffusion.mixture import Mixture
from tests.diffusion.parts import PRECONDITIONINGS, SCALINGS, SCHEDULES, SOLVERS, members, name

ANY = NoiseLevels()
SHAPE = (1, 2, 2)
MIXTURE = Mixture(std=0.5)
GUIDED = [member for member in members(Guidance) if member is not Unguided]
STD, GUIDE_STD = 0.5, 0.8  # of the data as the two denoisers of the Gaussian know it


def gaussian(x: Tensor, sigma: Tensor, std: float) -> Tensor:
    """The denoiser of N(0, std^2)."""
    return per_sample(std**2 / (std**2 + sigma**2), x) * x


def with_label(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
    """Knows the data where it is told a label, and a wider one where it is not."""
    assert labels is not None
    known = (labels >= 0).reshape(-1, *[1] * (x.ndim - 1))
    return torch.where(known, gaussian(x, sigma, STD), gaussian(x, sigma, GUIDE_STD))


def worse(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
    return gaussian(x, sigma, GUIDE_STD)


class Counting:
    """Counts what a denoiser is asked."""

    def __init__(self, denoise: Any) -> None:
        self.denoise = denoise
        self.asked: list[tuple[list[float], list[int]]] = []  # sigma and labels of each call

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        self.asked.append((sigma.tolist(), labels.tolist()))
        return self.denoise(x, sigma, labels)


def images_of(sampler: Sampler, labels: Tensor, denoise: Any = with_label, guide: Any = worse) -> Any:
    given = guide if sampler.guidance.needs_guide else None
    return sample(denoise, ANY, sampler, torch.arange(len(labels)), SHAPE, labels, guide=given)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 3.0])
def test_classifier_free_guidance_of_a_mixture_whose_labels_are_its_components(weight: float) -> None:
    """The conditional denoisers are those of N(1, std^2) and N(-1, std^2), the unconditional one is the mixture's."""
    sigma = torch.tensor([0.05, 0.4, 2.0, 30.0], dtype=torch.float64).repeat(2)
    x = torch.linspace(-3, 3, 8, dtype=torch.float64).reshape(8, 1, 1, 1)
    labels = torch.tensor([0] * 4 + [1] * 4)
    variance, noise = MIXTURE.std**2, per_sample(sigma, x) ** 2

    def component(mean: Tensor) -> Tensor:
        return (variance * x + noise * mean) / (variance + noise)

    def denoise(x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        means = (1 - 2 * labels.double()).reshape(8, 1, 1, 1)
        return torch.where(labels.reshape(8, 1, 1, 1) < 0, MIXTURE.denoise(x, sigma), component(means))

    conditional = component((1 - 2 * labels.double()).reshape(8, 1, 1, 1))
    unconditional = (variance * x + noise * torch.tanh(x / (variance + noise))) / (variance + noise)
    expected = weight * conditional + (1 - weight) * unconditional
    by_label = ClassifierFree(weight=weight).denoise(denoise, x, sigma, labels)
    by_guide = Autoguidance(weight=weight).denoise(denoise, x, sigma, labels, lambda x, sigma, _: unconditional)
    torch.testing.assert_close(by_label.denoised, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(by_guide.denoised, expected, rtol=1e-12, atol=1e-14)


def exact_end(start: Tensor, sigma_max: float, weight: float, low: float = 0.0, high: float = math.inf) -> Tensor:
    """Where dx/dsigma = (x - D)/sigma leads: d ln x = sum over both denoisers of w sigma/(std^2 + sigma^2) dsigma."""

    def growth(std: float, top: float, bottom: float) -> float:
        return 0.5 * math.log((std**2 + bottom**2) / (std**2 + top**2))

    high = min(high, sigma_max)
    inside, guide = growth(STD, high, low), growth(GUIDE_STD, high, low)
    outside = growth(STD, sigma_max, high) + growth(STD, low, 0.0)
    return start * math.exp(weight * inside + (1 - weight) * guide + outside)


@pytest.mark.parametrize("guidance", GUIDED, ids=name)
@pytest.mark.parametrize("solver", [solver for solver in SOLVERS if not solver.stochastic], ids=name)
def test_every_solver_follows_the_guided_flow_between_gaussians(solver: Any, guidance: Any) -> None:
    labels, weight = torch.zeros(3, dtype=torch.int64), 1.7
    sampler = Sampler(EDMSteps(num_steps=128), solver, VP(), VPScaling(), guidance=guidance(weight=weight))
    found = images_of(sampler, labels).images
    start = 80 * normal(torch.arange(3), draw(INITIAL, 0), SHAPE)
    expected = exact_end(start, 80.0, weight)
    unguided = exact_end(start, 80.0, 1.0)
    error = (found - expected).abs().max() / expected.abs().max()
    assert (unguided - expected).abs().max() > 0.2 * expected.abs().max(), "there is something to tell apart"
    assert error.item() < (0.05 if solver.order == 1 else 2e-3)


@pytest.mark.parametrize("guidance", GUIDED, ids=name)
def test_within_an_interval_the_flow_is_guided_and_outside_it_is_not(guidance: Any) -> None:
    """Euler takes the slope at the upper end of a step, and the interval has its upper end in it: so the steps between
    its ends, which are levels, are the guided ones."""
    low, high, weight = 0.4, 1.5, 2.5
    ends = (80.0, high, low, 0.002)
    parts = [torch.logspace(math.log10(a), math.log10(b), 301, dtype=torch.float64)[:-1] for a, b in pairwise(ends)]
    parts[1][0], parts[2][0] = high, low
    steps = ExplicitSteps(sigmas=tuple(torch.cat(parts).tolist()))
    sampler = Sampler(steps, Euler(), guidance=guidance(weight=weight, sigma_lo=low, sigma_hi=high))
    found = images_of(sampler, torch.zeros(2, dtype=torch.int64)).images
    start = 80 * normal(torch.arange(2), draw(INITIAL, 0), SHAPE)
    for edges, agrees in (((low, high), True), ((0.0, high), False), ((low, math.inf), False)):
        error = (found / exact_end(start, 80.0, weight, *edges) - 1).abs().max().item()
        assert error < 0.02 if agrees else error > 0.08, (edges, error)


LEVELS = (80.0, 20.0, 5.0, 1.0, 0.2)
# Euler asks at the levels; Heun at both ends of each step, at the last one once. (1, 20] holds 20 and 5.
ASKED = {"euler": (5, 2), "heun": (9, 4)}


@pytest.mark.parametrize("scaling", SCALINGS, ids=name)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
@pytest.mark.parametrize("guidance", GUIDED, ids=name)
@pytest.mark.parametrize("solver", [Euler(), Heun()], ids=name)
def test_evaluations_of_both_networks_are_counted_exactly(
    solver: Any, guidance: Any, schedule: Any, scaling: Any
) -> None:
    """Whatever the schedule, whose levels come back with a rounding error: the ends of the interval are levels here."""
    chosen = guidance(weight=2.0, sigma_lo=1.0, sigma_hi=20.0)
    sampler = Sampler(ExplicitSteps(sigmas=LEVELS), solver, schedule, scaling, guidance=chosen)
    main, guide = Counting(with_label), Counting(worse)
    nfe = images_of(sampler, torch.tensor([0, 3, 1]), main, guide).nfe
    own, second = ASKED[solver.kind]
    assert nfe.tolist() == [own + second] * 3
    assert len(main.asked) + len(guide.asked) == own + second
    assert len(guide.asked) == (second if chosen.needs_guide else 0)
    assert sum(labels == [-1] * 3 for _, labels in main.asked) == (0 if chosen.needs_guide else second)
    assert count_nfe(sampler, ANY, label=0) == own + second


@pytest.mark.parametrize("guidance", GUIDED, ids=name)
@pytest.mark.parametrize("solver", SOLVERS, ids=name)
def test_the_count_of_any_solver_is_what_both_networks_were_asked(solver: Any, guidance: Any) -> None:
    sampler = Sampler(EDMSteps(num_steps=5), solver, guidance=guidance(weight=2.0, sigma_lo=0.1))
    main, guide = Counting(with_label), Counting(worse)
    nfe = images_of(sampler, torch.tensor([0, 3]), main, guide).nfe
    assert nfe.tolist() == [len(main.asked) + len(guide.asked)] * 2
    assert int(nfe[0]) > count_nfe(replace(sampler, guidance=Unguided()), ANY)


def test_samples_without_a_label_stay_unguided_and_are_counted_so() -> None:
    """The batch is asked whole, since networks take fixed ones; those that nobody guides are not counted."""
    sampler = Sampler(EDMSteps(num_steps=4), guidance=ClassifierFree(weight=3.0))
    main = Counting(with_label)
    found = images_of(sampler, torch.tensor([2, -1, 0]), main)
    plain = images_of(replace(sampler, guidance=Unguided()), torch.tensor([2, -1, 0]))
    assert found.nfe.tolist() == [14, 7, 14]
    assert len(main.asked) == 14
    assert {len(labels) for _, labels in main.asked} == {3}
    assert torch.equal(found.images[1], plain.images[1])
    assert not torch.equal(found.images[0], plain.images[0])
    nobody = Counting(with_label)
    assert images_of(sampler, torch.full((3,), -1), nobody).nfe.tolist() == [7] * 3
    assert len(nobody.asked) == 7
    without = ClassifierFree().denoise(lambda x, *_: x, torch.zeros(2, *SHAPE), torch.ones(2).double(), None)
    assert without.evaluations.tolist() == [1, 1]


@pytest.mark.parametrize("guidance", GUIDED, ids=name)
@pytest.mark.parametrize("settings", [{"weight": 1.0}, {"weight": 3.0, "sigma_lo": 80.0}, {"sigma_hi": 0.001}], ids=str)
def test_a_weight_of_one_and_an_interval_without_a_level_are_no_guidance_bit_for_bit(
    guidance: Any, settings: dict[str, float]
) -> None:
    labels, guide = torch.tensor([0, 1]), Counting(worse)
    plain = images_of(Sampler(EDMSteps(num_steps=5)), labels)
    found = images_of(Sampler(EDMSteps(num_steps=5), guidance=guidance(**settings)), labels, guide=guide)
    assert torch.equal(found.images, plain.images)
    assert found.nfe.tolist() == plain.nfe.tolist() == [9, 9]
    assert guide.asked == []


@pytest.mark.parametrize("guidance", GUIDED, ids=name)
@pytest.mark.parametrize(("low", "high", "guided"), [(1.0, 5.0, [0, 0, 1, 1, 0]), (0.0, math.inf, [1] * 5)])
def test_the_interval_is_open_below_and_closed_above(guidance: Any, low: float, high: float, guided: list[int]) -> None:
    sigma = torch.tensor([0.3, 1.0, 1.0001, 5.0, 5.0001], dtype=torch.float64)
    x, labels = torch.ones(5, *SHAPE, dtype=torch.float64), torch.zeros(5, dtype=torch.int64)
    part = guidance(weight=2.0, sigma_lo=low, sigma_hi=high)
    found = part.denoise(with_label, x, sigma, labels, worse)
    assert found.evaluations.tolist() == [1 + count for count in guided]
    expected = gaussian(x, sigma, STD)
    expected += torch.tensor(guided).reshape(5, 1, 1, 1) * (expected - gaussian(x, sigma, GUIDE_STD))
    torch.testing.assert_close(found.denoised, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_an_end_of_the_interval_is_the_same_level_on_every_schedule(schedule: Any) -> None:
    """Schedules give sigma back with rounding errors of either sign."""
    x, labels = torch.ones(1, *SHAPE, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    for level in torch.linspace(0.05, 80, 40, dtype=torch.float64).tolist():
        sigma = schedule.sigma(schedule.sigma_inv(torch.tensor([level], dtype=torch.float64)))
        at_the_top = ClassifierFree(sigma_hi=level).denoise(with_label, x, sigma, labels)
        at_the_bottom = ClassifierFree(sigma_lo=level).denoise(with_label, x, sigma, labels)
        assert (at_the_top.evaluations.item(), at_the_bottom.evaluations.item()) == (2, 1), level


@pytest.mark.parametrize("guidance", GUIDED, ids=name)
@pytest.mark.parametrize("solver", SOLVERS, ids=name)
def test_a_guided_seed_is_the_same_image_in_any_company_bit_for_bit(solver: Any, guidance: Any) -> None:
    labels = torch.tensor([0, -1, 1, 4, -1, 2, 0])
    sampler = Sampler(EDMSteps(num_steps=4), solver, guidance=guidance(weight=2.0, sigma_lo=0.1, sigma_hi=30.0))
    guide = worse if sampler.guidance.needs_guide else None

    def found(seeds: list[int]) -> Any:
        return sample(with_label, ANY, sampler, torch.tensor(seeds), SHAPE, labels[seeds], guide=guide)

    together = found(list(range(7)))
    for chosen in ([1], [5], [6, 0, 4]):
        assert torch.equal(found(chosen).images, together.images[chosen])
        assert torch.equal(found(chosen).nfe, together.nfe[chosen])


def test_a_guide_that_is_missing_is_said_before_any_work() -> None:
    def never(*_: Any) -> Tensor:
        raise AssertionError

    with pytest.raises(ValueError, match=r"^guide: autoguidance needs a second network"):
        sample(never, ANY, Sampler(guidance=Autoguidance()), torch.arange(2), SHAPE)


@pytest.mark.parametrize("guidance", GUIDED, ids=name)
def test_impossible_weights_and_intervals_are_refused(guidance: Any) -> None:
    for weight in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"^weight: must be 0 or more and finite \(got "):
            guidance(weight=weight)
    for low, high in ((2.0, 2.0), (-1.0, 1.0), (0.0, math.nan), (3.0, 1.0)):
        with pytest.raises(ValueError, match=r"^sigma_lo: must be 0 or more and less than sigma_hi"):
            guidance(sigma_lo=low, sigma_hi=high)


# -- noise levels of two networks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("guide", PRECONDITIONINGS, ids=name)
@pytest.mark.parametrize("main", PRECONDITIONINGS, ids=name)
def test_two_networks_are_asked_what_both_can_take_at_levels_of_the_first(main: Any, guide: Any) -> None:
    ours, theirs = main.levels(), guide.levels()
    both = ours.common(theirs)
    assert both.sigma_min >= max(ours.sigma_min, theirs.sigma_min)
    assert both.sigma_max <= min(ours.sigma_max, theirs.sigma_max)
    levels = grid(EDMSteps(num_steps=6), both)[:-1]
    assert levels[0] <= both.sigma_max * (1 + 1e-12)
    assert levels[-1] >= both.sigma_min * (1 - 1e-12)
    assert torch.equal(ours.round_sigma(levels), levels)


def test_discrete_levels_are_kept_within_the_range_of_a_guide() -> None:
    u = iddpm_levels(1000, 0.001, 0.008)
    both = IDDPMPreconditioning().levels().common(VEPreconditioning(sigma_min=0.02, sigma_max=100.0).levels())
    assert both.sigma_max == u[u <= 100].max().item()
    assert both.sigma_min == u[u >= 0.02].min().item()
    assert EDMPreconditioning().levels().common(VEPreconditioning().levels()).sigma_max == 100.0
    assert grid(EDMSteps(sigma_max=1e4), both)[0] == both.sigma_max


def test_networks_without_a_common_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^guide: the network takes noise levels in \[1, 2\], its guide in \[3, 4\]"):
        VEPreconditioning(sigma_min=1, sigma_max=2).levels().common(
            VEPreconditioning(sigma_min=3, sigma_max=4).levels()
        )
    with pytest.raises(ValueError, match="no range in common"):
        VPPreconditioning().levels().common(VEPreconditioning(sigma_min=1e4, sigma_max=2e4).levels())
