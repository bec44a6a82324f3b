"""Preconditionings and the denoiser: variances, a second implementation, rounding, precision."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.noise import EDMWeighting, InverseVariance, RectifiedFlowWeighting
from pipeline.diffusion.preconditioning import (
    DiscretePreconditioning,
    EDMPreconditioning,
    IDDPMPreconditioning,
    RectifiedFlowPreconditioning,
    VEPreconditioning,
    VPPreconditioning,
)
from pipeline.diffusion.sampling import Sampler, sample
from pipeline.diffusion.schedules import RectifiedFlow, RectifiedFlowScaling
from pipeline.diffusion.seeds import INITIAL, draw, normal
from pipeline.diffusion.solvers import Euler
from pipeline.diffusion.timesteps import ExplicitSteps
from tests.diffusion.mixture import Mixture
from tests.diffusion.parts import PRECONDITIONINGS, name
from tests.diffusion.test_timesteps import plain_table

SIGMA_DATA = 0.37
SIGMAS = [0.03, 0.2, 1.0, 7.0, 60.0]
INPUT_VARIANCE = {
    "edm": lambda sigma: 1.0,
    "vp": lambda sigma: (sigma**2 + SIGMA_DATA**2) / (sigma**2 + 1),
    "iddpm": lambda sigma: (sigma**2 + SIGMA_DATA**2) / (sigma**2 + 1),
    "discrete": lambda sigma: (sigma**2 + SIGMA_DATA**2) / (sigma**2 + 1),
    "ve": lambda sigma: sigma**2 + SIGMA_DATA**2,
    "flow": lambda sigma: (sigma**2 + SIGMA_DATA**2) / (1 + sigma) ** 2,
}
TARGET_VARIANCE = {"flow": 1 + SIGMA_DATA**2}  # of the velocity; the others aim at variance 1


class Spy(nn.Module):
    """A network that answers with a constant and remembers what it was given."""

    def __init__(self, answer: float = 0.0) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        self.x, self.c_noise, self.labels = x, c_noise, labels
        return torch.full_like(x, self.answer)


def through(preconditioning, x: Tensor, sigma: float) -> tuple[Spy, Tensor, Tensor]:
    """What the network sees, and the target that training sets it, found from outside: D is affine in F."""
    sigmas = torch.tensor([sigma], dtype=torch.float64)
    spy = Spy(0.0)
    skip = Denoiser(spy, preconditioning, SIGMA_DATA)(x, sigmas)
    out = Denoiser(Spy(1.0), preconditioning, SIGMA_DATA)(x, sigmas) - skip
    return spy, skip, out


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("preconditioning", PRECONDITIONINGS, ids=name)
def test_input_and_target_of_the_network_have_the_variance_of_table_1(preconditioning, sigma):
    """Measured on 200,000 draws through the denoiser: a variance is then right to 4 x sqrt(2 / 200,000) = 1.3 %."""
    shape = (1, 1, 200_000)
    y = SIGMA_DATA * normal(torch.tensor([1]), 0, shape)
    n = sigma * normal(torch.tensor([2]), 0, shape)
    spy, skip, out = through(preconditioning, y + n, sigma)
    expected = TARGET_VARIANCE.get(preconditioning.kind, 1.0)
    assert ((y - skip) / out).var().item() == pytest.approx(expected, rel=0.013)
    if preconditioning.kind in INPUT_VARIANCE:
        assert spy.x.var().item() == pytest.approx(INPUT_VARIANCE[preconditioning.kind](sigma), rel=0.013)


@pytest.mark.parametrize("preconditioning", PRECONDITIONINGS, ids=name)
def test_the_variances_in_closed_form(preconditioning):
    sigma = torch.tensor(SIGMAS, dtype=torch.float64)
    c = preconditioning.coefficients(sigma, SIGMA_DATA)
    target = ((1 - c.c_skip) ** 2 * SIGMA_DATA**2 + c.c_skip**2 * sigma**2) / c.c_out**2
    expected_target = torch.full_like(sigma, TARGET_VARIANCE.get(preconditioning.kind, 1.0))
    torch.testing.assert_close(target, expected_target, rtol=1e-12, atol=0)
    if preconditioning.kind in INPUT_VARIANCE:
        expected = [INPUT_VARIANCE[preconditioning.kind](value) for value in SIGMAS]
        assert (c.c_in**2 * (sigma**2 + SIGMA_DATA**2)).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("preconditioning", "sign"), [(VPPreconditioning(), 1), (VEPreconditioning(), -1), (IDDPMPreconditioning(), 1)],
    ids=["vp", "ve", "iddpm"],
)  # fmt: skip
def test_the_target_of_vp_ve_and_iddpm_is_the_noise(preconditioning, sign):
    y = SIGMA_DATA * normal(torch.tensor([1]), 0, (1, 4, 4))
    n = normal(torch.tensor([2]), 0, (1, 4, 4))
    _, skip, out = through(preconditioning, y + 3.0 * n, 3.0)
    torch.testing.assert_close((y - skip) / out, sign * n, rtol=0, atol=1e-12)


def test_the_network_of_the_rectified_flow_sees_x_t_and_predicts_the_velocity():
    y = SIGMA_DATA * normal(torch.tensor([1]), 0, (1, 4, 4))
    n = normal(torch.tensor([2]), 0, (1, 4, 4))
    for t in (0.001, 0.3, 0.9, 0.999):
        sigma = t / (1 - t)
        spy, skip, out = through(RectifiedFlowPreconditioning(), y + sigma * n, sigma)
        torch.testing.assert_close(spy.x, (1 - t) * y + t * n, rtol=0, atol=1e-12)
        torch.testing.assert_close((y - skip) / out, n - y, rtol=0, atol=1e-9)
        assert spy.c_noise.tolist() == pytest.approx([1000 * t], rel=1e-12)


def test_matching_the_velocity_is_denoising_with_the_weight_of_the_flow():
    """|F(x_t, 1000 t) - (n - y)|^2 = lambda(sigma) |D(y + sigma n; sigma) - y|^2, for any network."""
    t = torch.linspace(0.002, 0.998, 40, dtype=torch.float64)
    sigma, column = t / (1 - t), (-1, 1, 1, 1)
    y, n = (SIGMA_DATA * normal(torch.arange(40), 0, (2, 3, 3)), normal(torch.arange(40), 1, (2, 3, 3)))
    labels = torch.arange(40) % 5 - 1
    x_t = (1 - t.reshape(column)) * y + t.reshape(column) * n
    of_velocity = (Probe()(x_t, 1000 * t, labels) - (n - y)).square().sum((1, 2, 3))
    denoiser = Denoiser(Probe(), RectifiedFlowPreconditioning(), SIGMA_DATA)
    error = (denoiser(y + sigma.reshape(column) * n, sigma, labels) - y).square().sum((1, 2, 3))
    of_denoising = RectifiedFlowWeighting().weight(sigma, SIGMA_DATA) * error
    torch.testing.assert_close(of_denoising, of_velocity, rtol=1e-8, atol=0)


class Velocity(nn.Module):
    """The velocity of the mixture with noise, E[n - y | x_t], as a perfect network would predict it."""

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        t = (c_noise / 1000).reshape(-1, 1, 1, 1)
        y = Mixture(std=0.5).denoise(x / (1 - t), (t / (1 - t)).flatten())
        return (x - (1 - t) * y) / t - y


def test_euler_on_schedule_and_scaling_of_the_flow_is_a_step_of_the_predicted_velocity():
    """x_(t + dt) = x_t + dt F(x_t, t), as flow matching samples, through the sampler of everything else."""
    denoiser = Denoiser(Velocity(), RectifiedFlowPreconditioning(), 1.0)
    times = [0.99, 0.7, 0.4, 0.15, 0.0]
    steps = ExplicitSteps(sigmas=tuple(t / (1 - t) for t in times[:-1]))
    sampler = Sampler(timesteps=steps, solver=Euler(), schedule=RectifiedFlow(), scaling=RectifiedFlowScaling())
    images = sample(denoiser, denoiser.levels, sampler, torch.arange(5), (1, 2, 2)).images
    x = 0.99 * normal(torch.arange(5), draw(INITIAL, 0), (1, 2, 2))
    for t, t_next in pairwise(times):
        x = x + (t_next - t) * Velocity()(x, torch.full((5,), 1000 * t, dtype=torch.float64), None)
    torch.testing.assert_close(images, x, rtol=1e-11, atol=1e-11)


class Probe(nn.Module):
    """Nonlinear in the image, in the noise level and in the label."""

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        column = (-1, 1, 1, 1)
        label = 0 if labels is None else labels.to(x.dtype).reshape(column)
        return torch.sin(x + c_noise.reshape(column) / 100) * (1 + 0.1 * label)


def plain_probe(x: float, c_noise: float, label: int) -> float:
    return math.sin(x + c_noise / 100) * (1 + 0.1 * label)


def plain_vp_denoiser(x: float, sigma: float, label: int) -> float:
    """Table 1, column VP, one number at a time."""
    t = (math.sqrt(0.1**2 + 2 * 19.9 * math.log(sigma**2 + 1)) - 0.1) / 19.9
    return x - sigma * plain_probe(x / math.sqrt(sigma**2 + 1), 999 * t, label)


def plain_edm_denoiser(x: float, sigma: float, label: int) -> float:
    """Table 1, column EDM, one number at a time."""
    total = sigma**2 + SIGMA_DATA**2
    f = plain_probe(x / math.sqrt(total), math.log(sigma) / 4, label)
    return SIGMA_DATA**2 / total * x + sigma * SIGMA_DATA / math.sqrt(total) * f


def plain_ve_denoiser(x: float, sigma: float, label: int) -> float:
    return x + sigma * plain_probe(x, math.log(sigma / 2), label)


def plain_flow_denoiser(x: float, sigma: float, label: int) -> float:
    t = sigma / (1 + sigma)
    return (1 - t) * x - t * plain_probe((1 - t) * x, 1000 * t, label)


U = plain_table()


def plain_iddpm_denoiser(x: float, sigma: float, label: int) -> float:
    index = min(range(1000), key=lambda j: abs(U[j] - sigma))
    return x - sigma * plain_probe(x / math.sqrt(sigma**2 + 1), 999 - index, label)


@pytest.mark.parametrize(
    ("preconditioning", "plain"),
    [
        (VPPreconditioning(), plain_vp_denoiser),
        (EDMPreconditioning(), plain_edm_denoiser),
        (VEPreconditioning(), plain_ve_denoiser),
        (IDDPMPreconditioning(), plain_iddpm_denoiser),
        (RectifiedFlowPreconditioning(), plain_flow_denoiser),
    ],
    ids=["vp", "edm", "ve", "iddpm", "flow"],
)
def test_the_denoiser_is_what_a_plain_implementation_computes(preconditioning, plain):
    sigma = torch.logspace(-1.9, 1.9, 25, dtype=torch.float64)
    x = sigma.reshape(-1, 1, 1, 1) * normal(torch.arange(25), 0, (2, 3, 2))
    labels = torch.arange(25) % 5 - 1
    denoised = Denoiser(Probe(), preconditioning, SIGMA_DATA)(x, sigma, labels)
    assert denoised.shape == x.shape
    expected = [plain(value, sigma[n].item(), labels[n].item()) for n in range(25) for value in x[n].flatten().tolist()]
    # ln(1 + sigma^2) costs the plain VP form some digits at the small levels.
    assert denoised.flatten().tolist() == pytest.approx(expected, rel=1e-10, abs=1e-10)


def test_edm_weighting_undoes_edm_preconditioning():
    sigma = torch.logspace(-3, 3, 50, dtype=torch.float64)
    for sigma_data in (0.2, 0.5, 1.3):
        c_out = EDMPreconditioning().coefficients(sigma, sigma_data).c_out
        weight = EDMWeighting().weight(sigma, sigma_data)
        torch.testing.assert_close(weight * c_out**2, torch.ones_like(sigma), rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    "preconditioning", [VPPreconditioning(), VEPreconditioning(), IDDPMPreconditioning()], ids=name
)
def test_inverse_variance_undoes_the_preconditionings_that_predict_noise(preconditioning):
    sigma = torch.logspace(-1, 1, 20, dtype=torch.float64)
    c_out = preconditioning.coefficients(sigma, 0.5).c_out
    weight = InverseVariance().weight(sigma, 0.5)
    torch.testing.assert_close(weight * c_out**2, torch.ones_like(sigma), rtol=1e-13, atol=0)


def test_iddpm_rounds_to_the_nearest_level():
    levels = torch.tensor(U[:1000], dtype=torch.float64)
    between = (levels[1:] + levels[:-1]) / 2
    sigma = torch.cat([levels, between * (1 + 1e-9), between * (1 - 1e-9), torch.logspace(-4, 6, 500).double()])
    nearest = (levels[None, :] - sigma[:, None]).abs().argmin(dim=1)
    preconditioning = IDDPMPreconditioning()
    assert preconditioning.round_sigma(sigma).tolist() == pytest.approx(levels[nearest].tolist(), rel=1e-12)
    assert preconditioning.coefficients(sigma, 0.5).c_noise.tolist() == (999 - nearest).tolist()


def test_what_a_network_can_be_asked_is_what_it_was_trained_for():
    vp = VPPreconditioning().levels()
    plain = [math.sqrt(math.exp(19.9 * t**2 / 2 + 0.1 * t) - 1) for t in (1e-5, 1.0)]
    assert [vp.sigma_min, vp.sigma_max] == pytest.approx(plain, rel=1e-9)
    ve = VEPreconditioning(sigma_min=0.1, sigma_max=9.0).levels()
    assert (ve.sigma_min, ve.sigma_max) == (0.1, 9.0)
    iddpm = IDDPMPreconditioning().levels()
    assert [iddpm.sigma_min, iddpm.sigma_max] == pytest.approx([U[999], U[0]], rel=1e-12)
    flow = RectifiedFlowPreconditioning(epsilon_t=0.01).levels()
    assert (flow.sigma_min, flow.sigma_max) == (0.0, pytest.approx(99.0))
    edm = EDMPreconditioning().levels()
    assert (edm.sigma_min, edm.sigma_max) == (0.0, math.inf)


class HalfSpy(Spy):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(0.5)
        self.weight = nn.Parameter(torch.ones(1, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_only_the_network_runs_in_its_own_precision(dtype):
    spy = HalfSpy(dtype)
    sigma = torch.tensor([80.0, 79.9], dtype=torch.float64)
    x = 80 * normal(torch.arange(2), 0, (1, 8, 8))
    denoised = Denoiser(spy, EDMPreconditioning(), 0.5)(x, sigma)
    assert spy.x.dtype == dtype
    assert spy.c_noise.dtype == torch.promote_types(dtype, torch.float32)
    assert len(set(spy.c_noise.tolist())) == 2, "neighbouring levels are told apart"
    assert denoised.dtype == torch.float64
    c = EDMPreconditioning().coefficients(sigma, 0.5)
    column = (-1, 1, 1, 1)
    expected = c.c_skip.reshape(column) * x + c.c_out.reshape(column) * 0.5
    torch.testing.assert_close(denoised, expected, rtol=1e-15, atol=1e-15)
    assert Denoiser(spy, EDMPreconditioning(), 0.5)(x.float(), sigma.float()).dtype == torch.float32


def test_a_learned_variance_is_left_aside():
    class Twice(nn.Module):
        def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
            return torch.cat([x, torch.full_like(x, math.nan)], dim=1)

    x = normal(torch.arange(2), 0, (3, 4, 4))
    sigma = torch.ones(2, dtype=torch.float64)
    denoised = Denoiser(Twice(), IDDPMPreconditioning(), 0.5)(x, sigma)
    assert denoised.shape == x.shape
    assert bool(denoised.isfinite().all())


@pytest.mark.parametrize(
    ("key", "make"),
    [
        ("sigma_data", lambda: Denoiser(Probe(), EDMPreconditioning(), 0.0)),
        ("sigma_data", lambda: Denoiser(Probe(), EDMPreconditioning(), math.nan)),
        ("beta_d", lambda: VPPreconditioning(beta_d=0.0)),
        ("epsilon_t", lambda: VPPreconditioning(epsilon_t=0.0)),
        ("M", lambda: VPPreconditioning(M=1)),
        ("sigma_min", lambda: VEPreconditioning(sigma_min=101.0)),
        ("M", lambda: IDDPMPreconditioning(M=0)),
        ("C_1", lambda: IDDPMPreconditioning(C_1=1.0)),
        ("M", lambda: RectifiedFlowPreconditioning(M=0.0)),
        ("epsilon_t", lambda: RectifiedFlowPreconditioning(epsilon_t=0.0)),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_the_name_of_their_key(key, make):
    with pytest.raises(ValueError, match=rf"^{key}: .*\(got "):
        make()


SCHEDULES = {
    "linear": lambda j: 1e-4 + j / 999 * (0.02 - 1e-4),
    "scaled_linear": lambda j: (1e-4**0.5 + j / 999 * (0.02**0.5 - 1e-4**0.5)) ** 2,
    "sigmoid": lambda j: 1e-4 + (0.02 - 1e-4) / (1 + math.exp(6 - 12 * j / 999)),
}


def plain_sigmas(schedule: str) -> list[float]:
    """sigma_j of DDPM, one product at a time."""
    abar, found = 1.0, []
    for j in range(1000):
        abar *= 1 - SCHEDULES[schedule](j)
        found.append(math.sqrt((1 - abar) / abar))
    return found


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_discrete_levels_are_those_of_a_plain_product(schedule):
    expected = plain_sigmas(schedule)
    preconditioning = DiscretePreconditioning(schedule=schedule)
    found = preconditioning.round_sigma(torch.tensor(expected, dtype=torch.float64))
    assert found.tolist() == pytest.approx(expected, rel=1e-10)
    explicit = DiscretePreconditioning(betas=tuple(SCHEDULES[schedule](j) for j in range(1000)))
    levels = explicit.levels()
    assert (levels.sigma_min, levels.sigma_max) == pytest.approx((expected[0], expected[-1]), rel=1e-10)
    c = preconditioning.coefficients(torch.tensor(expected, dtype=torch.float64), 0.5)
    assert c.c_noise.tolist() == [*range(1000)]


def test_the_cosine_levels_are_those_of_the_formula():
    """abar_j = cos^2(pi/2 (t + 0.008) / 1.008) / the same at t = 0, with t = (j + 1) / M, where no beta is capped."""
    levels = DiscretePreconditioning(schedule="cosine")
    abar = [math.cos((j + 9) / 1008 * math.pi / 2) ** 2 for j in (0, 400, 900)]
    start = math.cos(8 / 1008 * math.pi / 2) ** 2
    expected = torch.tensor([math.sqrt(start / value - 1) for value in abar], dtype=torch.float64)
    assert levels.round_sigma(expected).tolist() == pytest.approx(expected.tolist(), rel=1e-9)
    assert levels.coefficients(expected, 0.5).c_noise.tolist() == [0, 400, 900]


@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
def test_the_target_of_a_discrete_network_is_what_it_predicts(prediction):
    sigma = 3.0
    y = SIGMA_DATA * normal(torch.tensor([1]), 0, (1, 4, 4))
    n = normal(torch.tensor([2]), 0, (1, 4, 4))
    abar = 1 / (1 + sigma**2)
    expected = {"epsilon": n, "v": math.sqrt(abar) * n - math.sqrt(1 - abar) * y, "sample": y}[prediction]
    spy, skip, out = through(DiscretePreconditioning(prediction=prediction), y + sigma * n, sigma)
    torch.testing.assert_close((y - skip) / out, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(spy.x, math.sqrt(abar) * y + math.sqrt(1 - abar) * n, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "changes",
    [{"beta_start": 0.0}, {"beta_start": 0.03}, {"beta_end": 1.0}, {"M": 1}, {"betas": (0.1,)}, {"betas": (0.1, 1.0)}],
)
def test_discrete_levels_that_cannot_be_are_refused(changes):
    [(key, _)] = changes.items()
    with pytest.raises(ValueError, match=f"^(beta_start|{key}): "):
        DiscretePreconditioning(**changes)
    with pytest.raises(ValueError, match="nothing of the image is left"):
        DiscretePreconditioning(betas=(0.999,) * 1000)
