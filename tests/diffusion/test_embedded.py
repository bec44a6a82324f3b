"""The embedded pairs against SciPy's, and what their memory saves."""

import math

import pytest
import torch
from scipy.integrate import RK23, RK45

from pipeline.diffusion.flow import Flow
from pipeline.diffusion.guidance import Unguided
from pipeline.diffusion.sampling import Sampler, sample
from pipeline.diffusion.schedules import VP, Linear, Unscaled, VPScaling
from pipeline.diffusion.seeds import Noise
from pipeline.diffusion.solvers import MANY, BogackiShampine, DormandPrince, Heun
from pipeline.diffusion.stochasticity import Churn, Restart, Segment
from pipeline.diffusion.timesteps import EDMSteps, NoiseLevels
from tests.diffusion.mixture import Mixture
from tests.diffusion.parts import EMBEDDED, name

MIXTURE = Mixture(std=0.5)
ANY = NoiseLevels()
SCIPY = {"bogacki_shampine": RK23, "dormand_prince": RK45}
SHAPE = (1, 2, 3)


@pytest.mark.parametrize("vp", [False, True], ids=["linear", "vp"])
@pytest.mark.parametrize("solver", EMBEDDED, ids=name)
def test_a_step_and_its_error_are_scipys(solver, vp):
    method = SCIPY[solver.kind]
    couple = (VP(), VPScaling()) if vp else (Linear(), Unscaled())
    flow = Flow(MIXTURE.denoise, *couple, Unguided(), None, torch.zeros(1, dtype=torch.int64))
    t, t_next = flow.t(torch.tensor([3.0, 0.9], dtype=torch.float64))
    x = torch.linspace(-2, 3, 6, dtype=torch.float64).reshape(1, *SHAPE)
    step = solver.step(flow, x, t[None], t_next[None], (), Noise(torch.arange(1), SHAPE), MANY)

    def velocity(time: float, y):
        state = torch.as_tensor(y).reshape(1, *SHAPE)
        return flow.velocity(state, torch.tensor([time], dtype=torch.float64)).flatten().numpy()

    y, h = x.flatten().numpy(), float(t_next - t)
    slopes = [velocity(float(t), y)]
    for node, row in zip(method.C[1:], method.A[1:], strict=True):
        slopes.append(velocity(float(t) + node * h, y + h * sum(a * k for a, k in zip(row, slopes, strict=False))))
    y_next = y + h * sum(b * k for b, k in zip(method.B, slopes, strict=True))
    slopes.append(velocity(float(t_next), y_next))
    error = h * sum(e * k for e, k in zip(method.E, slopes, strict=True))
    assert step.x.flatten().tolist() == pytest.approx(y_next.tolist(), rel=1e-13, abs=1e-13)
    # SciPy states the error as the other solution less this one.
    assert step.error.flatten().abs().tolist() == pytest.approx(abs(error).tolist(), rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("solver", EMBEDDED, ids=name)
def test_the_error_falls_with_the_stated_power_of_the_step(solver):
    flow = Flow(MIXTURE.denoise, Linear(), Unscaled(), Unguided(), None, torch.zeros(4, dtype=torch.int64))
    t = torch.full((4,), 0.9, dtype=torch.float64)
    h = torch.tensor([0.08, 0.04, 0.02, 0.01], dtype=torch.float64)
    x = torch.tensor([0.1, 0.7], dtype=torch.float64).expand(4, 1, 1, 2)
    error = solver.step(flow, x, t, t - h, (), Noise(torch.arange(4), (1, 1, 2)), MANY).error
    sizes = error.flatten(1).norm(dim=1).tolist()
    assert math.log2(sizes[2] / sizes[3]) == pytest.approx(solver.error_order, abs=0.15), sizes


EVALUATIONS = {"bogacki_shampine": 3, "dormand_prince": 6}  # of a step, one more at the first: the last slope is kept


@pytest.mark.parametrize("solver", EMBEDDED, ids=name)
def test_the_last_slope_of_a_step_is_the_first_of_the_next(solver):
    num_steps = 6
    nfe = sample(MIXTURE.denoise, ANY, Sampler(EDMSteps(num_steps=num_steps), solver), torch.arange(2), SHAPE).nfe
    stages = EVALUATIONS[solver.kind]
    assert nfe.tolist() == [stages * (num_steps - 1) + 1 + 1] * 2
    assert solver.evaluations == stages


@pytest.mark.parametrize("solver", EMBEDDED, ids=name)
@pytest.mark.parametrize(
    "stochasticity",
    [Churn(S_churn=3, S_min=0.1, S_max=10), Restart(segments=(Segment(sigma_min=0.3, sigma_max=4.0, K=2),))],
    ids=name,
)
def test_a_slope_is_never_remembered_where_noise_was_added(solver, stochasticity):
    """With a solver that forgets everything between steps the images are the same, bit for bit."""

    class Forgets(type(solver)):
        def step(self, flow, x, t, t_next, memory, noise, ahead):
            return super().step(flow, x, t, t_next, (), noise, ahead)

    steps, seeds = EDMSteps(num_steps=8), torch.arange(3)
    remembers, forgets = (
        sample(MIXTURE.denoise, ANY, Sampler(steps, one, stochasticity=stochasticity), seeds, SHAPE)
        for one in (solver, Forgets())
    )
    assert torch.equal(remembers.images, forgets.images)
    assert bool((remembers.nfe < forgets.nfe).all())


def test_at_the_same_cost_the_higher_order_is_nearer():
    seeds = torch.arange(6)

    def images(solver, num_steps: int):
        return sample(MIXTURE.denoise, ANY, Sampler(EDMSteps(num_steps=num_steps), solver), seeds, SHAPE)

    reference = images(DormandPrince(), 200).images
    results = [images(Heun(), 92), images(BogackiShampine(), 61), images(DormandPrince(), 31)]
    assert [int(result.nfe[0]) for result in results] == [183, 182, 182]
    # All grids end at 0.002, so the step to 0 is the same.
    errors = [float((result.images - reference).abs().max()) for result in results]
    assert errors[0] > 5 * errors[1] > 25 * errors[2]
