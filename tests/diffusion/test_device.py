"""The loop with its states on another device than the CPU. Torch's `meta` device has shapes and no values: whoever asks
it for one, as one that waits for a GPU does, is refused, and so is whoever mixes devices."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.guidance import Autoguidance, ClassifierFree, Unguided
from pipeline.diffusion.preconditioning import EDMPreconditioning
from pipeline.diffusion.sampling import Sampler, sample
from pipeline.diffusion.stochasticity import Churn, Deterministic, Restart
from pipeline.diffusion.timesteps import EDMSteps, NoiseLevels
from tests.diffusion.parts import (
    BETAS,
    PRECONDITIONINGS,
    SCALINGS,
    SCHEDULES,
    SOLVER_VARIANTS,
    SOLVERS,
    STOCHASTICITIES,
    name,
)

SEEDS = torch.arange(3, device="meta")
SHAPE = (2, 4, 4)
STEPS = EDMSteps(num_steps=5)


@pytest.fixture(autouse=True)
def _one_round(monkeypatch):
    """Of the generator: numbers do not matter here, and each operation takes its time."""
    monkeypatch.setattr("pipeline.diffusion.seeds._ROUNDS", 1)


class Network(nn.Module):
    """Told of everything that a network is told of."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 2, 3, padding=1, device="meta")

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        assert labels is not None
        assert {x.device.type, c_noise.device.type, labels.device.type} == {"meta"}
        return self.layer(x) * c_noise[:, None, None, None] + labels[:, None, None, None]


def images_of(sampler: Sampler, preconditioning=None) -> Tensor:
    denoiser = Denoiser(Network(), preconditioning or EDMPreconditioning(), 0.5)
    labels = torch.tensor([0, 1, -1])
    levels = denoiser.levels if preconditioning else NoiseLevels()
    images, nfe = sample(denoiser, levels, sampler, SEEDS, SHAPE, labels, guide=denoiser)
    assert nfe.device.type == "cpu"
    assert int(nfe.min()) > 0
    return images


@pytest.mark.parametrize("stochasticity", STOCHASTICITIES, ids=name)
@pytest.mark.parametrize("solver", SOLVERS, ids=name)
def test_no_solver_waits_for_the_device(solver, stochasticity):
    images = images_of(Sampler(timesteps=STEPS, solver=solver, stochasticity=stochasticity))
    assert (images.device.type, images.shape, images.dtype) == ("meta", (3, *SHAPE), torch.float64)


@pytest.mark.parametrize("solver", SOLVER_VARIANTS, ids=str)
def test_no_other_setting_of_a_solver_does(solver):
    assert images_of(Sampler(timesteps=STEPS, solver=solver)).device.type == "meta"


@pytest.mark.parametrize("beta", BETAS, ids=name)
@pytest.mark.parametrize("solver", [solver for solver in SOLVERS if hasattr(solver, "beta")], ids=name)
def test_no_amount_of_noise_does(solver, beta):
    assert images_of(Sampler(timesteps=STEPS, solver=type(solver)(beta=beta))).device.type == "meta"


@pytest.mark.parametrize("first_step", ["network", "analytic"])
@pytest.mark.parametrize("guidance", [Unguided(), ClassifierFree(sigma_lo=0.1, sigma_hi=5.0), Autoguidance()], ids=name)
@pytest.mark.parametrize("scaling", SCALINGS, ids=name)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=name)
def test_no_schedule_scaling_guidance_or_first_step_does(schedule, scaling, guidance, first_step):
    for stochasticity in (Deterministic(), Churn(), Restart()):
        sampler = Sampler(
            timesteps=STEPS, schedule=schedule, scaling=scaling, guidance=guidance, stochasticity=stochasticity,
            first_step=first_step,
        )  # fmt: skip
        assert images_of(sampler).device.type == "meta"


@pytest.mark.parametrize("preconditioning", PRECONDITIONINGS, ids=name)
def test_no_preconditioning_does(preconditioning):
    assert images_of(Sampler(timesteps=STEPS), preconditioning).device.type == "meta"
