"""Time grids against an independent evaluation of the formulas of Table 1, in plain Python."""

import math
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from diffusers.schedulers.scheduling_utils import AysSchedules
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.diffusion.preconditioning import IDDPMPreconditioning, VEPreconditioning, VPPreconditioning
from pipeline.diffusion.timesteps import (
    AdaptiveSteps,
    AYSSteps,
    EDMSteps,
    ExplicitSteps,
    IDDPMSteps,
    LogSNRSteps,
    NoiseLevels,
    OptimizedSteps,
    VESteps,
    VPSteps,
    grid,
    iddpm_levels,
    steps_of,
)
from tests.diffusion.parts import LISTED_TIMESTEPS, SMOOTH_TIMESTEPS, TIMESTEPS, name, with_steps


def plain_edm(n: int, low: float, high: float, rho: float) -> list[float]:
    return [(high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(n)]


def plain_vp(n: int, beta_d: float = 19.9, beta_min: float = 0.1, epsilon_s: float = 1e-3) -> list[float]:
    times = [1 + i / (n - 1) * (epsilon_s - 1) for i in range(n)]
    return [math.sqrt(math.exp(beta_d * t**2 / 2 + beta_min * t) - 1) for t in times]


def plain_vp_spanning(n: int, low: float, high: float, epsilon_s: float = 1e-3) -> list[float]:
    beta_d = 2 * (math.log(low**2 + 1) / epsilon_s - math.log(high**2 + 1)) / (epsilon_s - 1)
    return plain_vp(n, beta_d, math.log(high**2 + 1) - beta_d / 2, epsilon_s)


def plain_ve(n: int, low: float, high: float) -> list[float]:
    return [math.sqrt(high**2 * (low**2 / high**2) ** (i / (n - 1))) for i in range(n)]


def plain_logsnr(n: int, low: float, high: float) -> list[float]:
    return [math.exp(math.log(high) + i / (n - 1) * (math.log(low) - math.log(high))) for i in range(n)]


def plain_table(M: int = 1000, C_1: float = 0.001, C_2: float = 0.008) -> list[float]:
    def abar(j: int) -> float:
        return math.sin(math.pi / 2 * j / (M * (C_2 + 1))) ** 2

    u = [0.0] * (M + 1)
    for j in reversed(range(1, M + 1)):
        u[j - 1] = math.sqrt((u[j] ** 2 + 1) / max(abar(j - 1) / abar(j), C_1) - 1)
    return u


def plain_iddpm(n: int, j0: int = 8, M: int = 1000) -> list[float]:
    u = plain_table(M)
    return [u[math.floor(j0 + (M - 1 - j0) / (n - 1) * i + 0.5)] for i in range(n)]


@pytest.mark.parametrize("num_steps", [2, 5, 18, 40, 256])
@pytest.mark.parametrize(
    ("steps", "plain"),
    [
        (EDMSteps(), lambda n: plain_edm(n, 0.002, 80, 7)),
        (EDMSteps(rho=3, sigma_min=0.01, sigma_max=50), lambda n: plain_edm(n, 0.01, 50, 3)),
        (VPSteps(), plain_vp),
        (VPSteps(sigma_min=0.002, sigma_max=80.0), lambda n: plain_vp_spanning(n, 0.002, 80)),
        (VPSteps(sigma_min=0.02, sigma_max=100.0), lambda n: plain_vp_spanning(n, 0.02, 100)),
        (VPSteps(sigma_min=0.3, sigma_max=5.0, epsilon_s=0.1), lambda n: plain_vp_spanning(n, 0.3, 5, 0.1)),
        (VESteps(), lambda n: plain_ve(n, 0.02, 100)),
        (VESteps(sigma_min=0.5, sigma_max=3.0), lambda n: plain_ve(n, 0.5, 3)),
        (LogSNRSteps(), lambda n: plain_logsnr(n, 0.002, 80)),
        (IDDPMSteps(), plain_iddpm),
    ],
    ids=lambda value: repr(value) if hasattr(value, "kind") else "",
)
def test_a_grid_is_the_formula_of_table_1(steps, plain, num_steps):
    sigmas = grid(with_steps(steps, num_steps), NoiseLevels())
    assert sigmas.dtype == torch.float64
    # exp(x) - 1 of the plain form loses 4 digits at 0.002, where expm1 loses none.
    assert sigmas.tolist() == pytest.approx([*plain(num_steps), 0.0], rel=1e-9)


def test_the_table_of_iddpm_is_its_recursion():
    assert iddpm_levels(1000, 0.001, 0.008).tolist() == pytest.approx(plain_table(), rel=1e-12)
    assert iddpm_levels(50, 0.01, 0.1).tolist() == pytest.approx(plain_table(50, 0.01, 0.1), rel=1e-12)


def test_iddpm_starts_at_j0_and_can_take_every_level_once():
    u = plain_table()
    assert grid(IDDPMSteps(), NoiseLevels())[0].item() == pytest.approx(u[8], rel=1e-12)
    sigmas = grid(IDDPMSteps(num_steps=992), NoiseLevels())
    assert sigmas.tolist() == pytest.approx([*u[8:1000], 0.0], rel=1e-12)


@pytest.mark.parametrize("steps", TIMESTEPS, ids=name)
def test_one_step_goes_from_the_top_to_zero(steps):
    if steps in LISTED_TIMESTEPS:
        assert grid(replace(steps, sigmas=(7.5,)), NoiseLevels()).tolist() == [7.5, 0.0]
        return
    top = grid(steps, NoiseLevels())[0].item()
    assert grid(with_steps(steps, 1), NoiseLevels()).tolist() == pytest.approx([top, 0.0], rel=1e-12)


@pytest.mark.parametrize("steps", SMOOTH_TIMESTEPS, ids=name)
@pytest.mark.parametrize(
    "network", [NoiseLevels(0.05, 30.0), NoiseLevels(0.0, 30.0), NoiseLevels(0.05, math.inf)], ids=lambda n: ""
)
def test_a_grid_is_narrowed_to_what_the_network_supports(steps, network):
    low, high = max(steps.sigma_min, network.sigma_min), min(steps.sigma_max, network.sigma_max)
    plain = {
        "edm": lambda: plain_edm(18, low, high, 7),
        "vp": lambda: plain_vp_spanning(18, low, high),
        "ve": lambda: plain_ve(18, low, high),
        "logsnr": lambda: plain_logsnr(18, low, high),
    }
    sigmas = grid(steps, network)[:-1]
    if steps.kind in plain:
        assert sigmas.tolist() == pytest.approx(plain[steps.kind](), rel=1e-9)
    assert sigmas[[0, -1]].tolist() == pytest.approx([high, low], rel=1e-9)


def test_the_iddpm_grid_of_a_narrow_network_takes_the_levels_it_has():
    inside = [u for u in plain_table() if 0.05 <= u <= 30]
    sigmas = grid(IDDPMSteps(num_steps=10), NoiseLevels(0.05, 30.0)).tolist()
    picked = [inside[math.floor(i * (len(inside) - 1) / 9 + 0.5)] for i in range(10)]
    assert sigmas == pytest.approx([*picked, 0.0], rel=1e-12)


@pytest.mark.parametrize(
    "preconditioning", [VPPreconditioning(), VEPreconditioning(), IDDPMPreconditioning()], ids=name
)
@pytest.mark.parametrize("steps", [s for s in TIMESTEPS if s not in LISTED_TIMESTEPS], ids=name)
def test_every_grid_goes_with_every_network(steps, preconditioning):
    levels = preconditioning.levels()
    sigmas = grid(steps, levels)
    assert len(sigmas) == steps.num_steps + 1
    assert levels.sigma_min * (1 - 1e-9) <= sigmas[-2]
    assert sigmas[0] <= levels.sigma_max * (1 + 1e-9)


def test_levels_are_rounded_to_those_of_a_discrete_network():
    u = plain_table()
    smooth = plain_edm(20, u[999], 80, 7)
    nearest = [min(u[:1000], key=lambda level: abs(level - sigma)) for sigma in smooth]
    rounded = grid(EDMSteps(num_steps=20), IDDPMPreconditioning().levels())
    assert rounded.tolist() == pytest.approx([*nearest, 0.0], rel=1e-12)


@pytest.mark.parametrize("kind", [ExplicitSteps, OptimizedSteps])
def test_a_list_is_taken_as_it_is(kind):
    steps = kind(sigmas=(80.0, 9.7232, 0.4, 0.002))
    assert steps.num_steps == 4
    assert grid(steps, NoiseLevels()).tolist() == [80.0, 9.7232, 0.4, 0.002, 0.0]


@pytest.mark.parametrize(
    ("key", "make"),
    [
        ("num_steps", lambda: EDMSteps(num_steps=0)),
        ("num_steps", lambda: VESteps(num_steps=-3)),
        ("sigma_min", lambda: EDMSteps(sigma_min=81.0)),
        ("sigma_min", lambda: VESteps(sigma_min=0.0)),
        ("sigma_min", lambda: VPSteps(sigma_min=math.nan)),
        ("sigma_min", lambda: IDDPMSteps(sigma_max=math.inf)),
        ("rho", lambda: EDMSteps(rho=0.0)),
        ("epsilon_s", lambda: VPSteps(epsilon_s=1.0)),
        ("M", lambda: IDDPMSteps(M=1)),
        ("M", lambda: IDDPMSteps(M=10**12)),
        ("C_1", lambda: IDDPMSteps(C_1=0.0)),
        ("C_2", lambda: IDDPMSteps(C_2=-0.1)),
        ("sigmas", lambda: OptimizedSteps(sigmas=(1.0, 2.0))),
        ("num_steps", lambda: LogSNRSteps(num_steps=0)),
        ("num_steps", lambda: AYSSteps(num_steps=0)),
        ("sigma_min", lambda: grid(AYSSteps(), NoiseLevels(20.0, 80.0))),
        ("max_steps", lambda: AdaptiveSteps(max_steps=0)),
        ("sigma_min", lambda: AdaptiveSteps(sigma_min=80.0)),
        ("rtol", lambda: AdaptiveSteps(rtol=0.0)),
        ("atol", lambda: AdaptiveSteps(atol=-1.0)),
        ("icoeff", lambda: AdaptiveSteps(icoeff=0.0)),
        ("pcoeff", lambda: AdaptiveSteps(pcoeff=math.nan)),
        ("initial_step", lambda: AdaptiveSteps(initial_step=math.nan)),
        ("safety", lambda: AdaptiveSteps(safety=1.0)),
        ("factor_min", lambda: AdaptiveSteps(factor_min=0.95)),
        ("factor_max", lambda: AdaptiveSteps(factor_max=1.0)),
        ("sigmas", lambda: ExplicitSteps(sigmas=())),
        ("sigmas", lambda: ExplicitSteps(sigmas=(1.0, 2.0))),
        ("sigmas", lambda: ExplicitSteps(sigmas=(2.0, 2.0, 1.0))),
        ("sigmas", lambda: ExplicitSteps(sigmas=(2.0, 0.0))),
        ("sigmas", lambda: ExplicitSteps(sigmas=(math.inf, 1.0))),
        ("sigmas", lambda: ExplicitSteps(sigmas=(math.nan, 1.0))),
        ("sigmas", lambda: grid(ExplicitSteps(sigmas=(90.0, 1.0)), NoiseLevels(0.0, 80.0))),
        ("sigmas", lambda: grid(ExplicitSteps(sigmas=(60.0, 0.001)), NoiseLevels(0.002, 80.0))),
        ("sigma_min", lambda: grid(EDMSteps(), NoiseLevels(100.0, 200.0))),
        ("sigma_min", lambda: grid(VPSteps(sigma_min=0.5, sigma_max=1.0), NoiseLevels())),
        ("num_steps", lambda: grid(IDDPMSteps(num_steps=993), NoiseLevels())),
        ("num_steps", lambda: grid(IDDPMSteps(num_steps=10, M=5), NoiseLevels())),
        ("num_steps", lambda: grid(EDMSteps(num_steps=400), IDDPMPreconditioning().levels())),
    ],
)
def test_settings_that_give_no_grid_are_refused_by_the_name_of_their_key(key, make):
    with pytest.raises(ValueError, match=rf"^{key}: ") as caught:
        make()
    assert re.search(r"\d|nan|none", str(caught.value)), "the sentence shows the value"


def test_the_refusal_of_a_repeated_step_says_which_and_what_to_do():
    with pytest.raises(ValueError, match=r"^num_steps: 400 steps of the edm grid are too many .* use fewer steps$"):
        grid(EDMSteps(num_steps=400), IDDPMPreconditioning().levels())


@pytest.mark.parametrize(
    ("table", "published"),
    [("sd15", "StableDiffusionSigmas"), ("sdxl", "StableDiffusionXLSigmas"), ("svd", "StableDiffusionVideoSigmas")],
)
def test_ays_is_the_published_table_and_ln_sigma_between_its_levels(table, published):
    levels = AysSchedules[published]
    sigmas = grid(AYSSteps(table=table), NoiseLevels()).tolist()
    assert sigmas == pytest.approx(levels, rel=1e-12)
    halved = grid(AYSSteps(table=table, num_steps=19), NoiseLevels()).tolist()
    assert halved[0:19:2] == pytest.approx(levels[:10], rel=1e-12)
    middles = [math.sqrt(a * b) for a, b in pairwise(levels[:10])]
    assert halved[1:19:2] == pytest.approx(middles, rel=1e-12)


def test_a_narrow_network_takes_the_part_of_the_ays_table_within_its_range():
    inside = [math.log(level) for level in (1.5, 1.396, 0.963, 0.652, 0.399, 0.3)]
    sigmas = grid(AYSSteps(num_steps=5), NoiseLevels(0.3, 1.5)).tolist()
    assert sigmas == pytest.approx([*[math.exp(log) for log in _interpolated(inside, 5)], 0.0], rel=1e-12)


def _interpolated(values: list[float], count: int) -> list[float]:
    found = []
    for i in range(count):
        place = i / (count - 1) * (len(values) - 1)
        left = min(math.floor(place), len(values) - 2)
        found.append(values[left] + (place - left) * (values[left + 1] - values[left]))
    return found


def test_of_an_adaptive_grid_its_ends_are_known():
    assert grid(AdaptiveSteps(), NoiseLevels()).tolist() == [80.0, 0.002, 0.0]
    assert grid(AdaptiveSteps(), NoiseLevels(0.05, 30.0)).tolist() == [30.0, 0.05, 0.0]
    u = plain_table()
    ends = grid(AdaptiveSteps(), IDDPMPreconditioning().levels()).tolist()
    assert ends == pytest.approx([min(u, key=lambda level: abs(level - 80)), u[999], 0.0], rel=1e-12)
    assert [steps_of(steps) for steps in (AdaptiveSteps(), EDMSteps(num_steps=7), OptimizedSteps())] == [None, 7, 2]


def rises(low: float, high: float, epsilon_s: float) -> bool:
    """Whether the exponent of the VP schedule through both ends rises from epsilon_s to 1; its slope is linear."""
    beta_d = 2 * (math.log1p(low**2) / epsilon_s - math.log1p(high**2)) / (epsilon_s - 1)
    beta_min = math.log1p(high**2) - beta_d / 2
    return beta_d * epsilon_s + beta_min > 0 and beta_d + beta_min > 0


RANGES = st.tuples(st.floats(1e-4, 1.0), st.floats(1.5, 1e5)).map(lambda pair: (pair[0], pair[0] * pair[1]))


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from([EDMSteps, VPSteps, VESteps, LogSNRSteps]), limits=RANGES, num_steps=st.integers(1, 1000),
    rho=st.floats(1, 15), epsilon_s=st.floats(1e-5, 0.5),
)  # fmt: skip
def test_whatever_the_settings_a_grid_falls_from_sigma_max_to_sigma_min(kind, limits, num_steps, rho, epsilon_s):
    extra = {EDMSteps: {"rho": rho}, VPSteps: {"epsilon_s": epsilon_s}, VESteps: {}, LogSNRSteps: {}}[kind]
    steps = kind(num_steps=num_steps, sigma_min=limits[0], sigma_max=limits[1], **extra)
    if kind is VPSteps and not rises(*limits, epsilon_s):
        with pytest.raises(ValueError, match=r"^sigma_min: the vp grid cannot fall"):
            grid(steps, NoiseLevels())
        return
    sigmas = grid(steps, NoiseLevels())
    assert len(sigmas) == num_steps + 1
    assert bool((sigmas.diff() < 0).all())
    assert sigmas[0].item() == pytest.approx(limits[1], rel=1e-8)
    assert sigmas[-1] == 0
    if num_steps > 1:
        assert sigmas[-2].item() == pytest.approx(limits[0], rel=1e-6)
