"""The deterministic solvers against the schedulers of diffusers: the same levels, the same noise, the same network.

Only the arithmetic of a scheduler's `step` is theirs here. Its levels are set to ours, in float64, so any grid will do,
and agreement is to rounding (1e-9) where a scheduler keeps float64. States are compared down to the last level above
0; the last step, to 0, is the loop's own. Schedulers know of that step, so that they lower their order where we do.
"""

import warnings
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn

from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.preconditioning import EDMPreconditioning
from pipeline.diffusion.sampling import Sampler, sample
from pipeline.diffusion.seeds import INITIAL, draw, normal
from pipeline.diffusion.solvers import (
    DEIS,
    IPNDM,
    LMS,
    DPMpp2M,
    DPMpp2S,
    DPMpp3M,
    DPMSolver2,
    Euler,
    Heun,
    IPNDMv,
    Solver,
    UniPC,
)  # fmt: skip
from pipeline.diffusion.timesteps import EDMSteps, NoiseLevels, grid
from tests.diffusion.parts import members

# What each deterministic solver is checked against, by its kind.
CHECKED = {
    "euler": "diffusers EulerDiscreteScheduler, EDMEulerScheduler",
    "heun": "diffusers HeunDiscreteScheduler",
    # diffusers has no such member of the family; the plain loop is in test_solvers.
    "midpoint": "a plain loop of the paper's Algorithm 3",
    "ralston": "a plain loop of the paper's Algorithm 3",
    "alpha": "a plain loop of the paper's Algorithm 3",
    # diffusers has no Runge-Kutta pairs; these are compared in test_embedded.
    "bogacki_shampine": "scipy RK23",
    "dormand_prince": "scipy RK45",
    "dpm_2": "diffusers KDPM2DiscreteScheduler (r = 1/2), DPMSolverSinglestepScheduler (dpmsolver, any r)",
    "dpmpp_2s": "diffusers DPMSolverSinglestepScheduler (dpmsolver++, any r)",
    "dpmpp_2m": "diffusers DPMSolverMultistepScheduler, EDMDPMSolverMultistepScheduler",
    # The corrected form is nowhere else; its order, 3, is measured, and UniPC's predictor of order 3 is the same step.
    "dpmpp_3m": "diffusers DPMSolverMultistepScheduler, EDMDPMSolverMultistepScheduler (published form)",
    # That scheduler's order is always 4; the lower ones are the first steps of it.
    "ipndm": "diffusers IPNDMScheduler",
    # The method is LMS under another name.
    "ipndm_v": "diffusers LMSDiscreteScheduler",
    "lms": "diffusers LMSDiscreteScheduler",
    "gradient_estimation": "a plain loop of its paper's algorithm (test_multistep)",
    # diffusers has the polynomial in ln sigma only, and to order 3. The one in VP time is the same code with another
    # variable, and is checked against the paper's integrals in test_multistep.
    "deis": "diffusers DEISMultistepScheduler (log_rho, to order 3), the integrals of its paper (vp)",
    "unipc": "diffusers UniPCMultistepScheduler",
}
NUM_STEPS = (2, 3, 4, 5, 16)
IN_FLOAT32, IN_FLOAT64 = 1e-5, 1e-9  # some schedulers turn states into float32
SHAPE = (1, 3, 3)
SEEDS = torch.arange(5)
States = list[Tensor]
Reference = Callable[[Tensor, Tensor], States]  # from our levels and the state at the first one, without scaling


class Small(nn.Module):
    """F of fixed weights, with something of everything: neighbours, noise level, a nonlinearity."""

    def __init__(self) -> None:
        super().__init__()
        weights = torch.sin(torch.arange(162, dtype=torch.float64))
        self.first = nn.Parameter(weights.reshape(9, 18)[:, :9])
        self.second = nn.Parameter(weights.reshape(9, 18)[:, 9:])

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        hidden = torch.tanh(x.flatten(1) @ self.first.to(x.dtype) + c_noise[:, None])
        return (hidden @ self.second.to(x.dtype)).reshape(x.shape) / 3


DENOISER = Denoiser(Small(), EDMPreconditioning(), 0.5)


def ours(solver: Any, num_steps: int) -> tuple[States, Tensor]:
    states: States = []
    sampler = Sampler(timesteps=EDMSteps(num_steps=num_steps), solver=solver)
    sample(DENOISER, NoiseLevels(), sampler, SEEDS, SHAPE, on_move=lambda _move, x, _sigma: states.append(x))
    return states[:-1], grid(sampler.timesteps, NoiseLevels())


def denoised(x: Tensor, sigma: Tensor) -> Tensor:
    return DENOISER(x, sigma.double().expand(len(x))).detach()


def prepared(name: str, sigmas: Tensor, **settings: Any) -> Any:
    """A scheduler whose levels are ours, the last 0 among them."""
    scheduler = getattr(diffusers, name)(**settings)
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.sigmas = sigmas.clone()
    scheduler.timesteps = torch.arange(len(sigmas) - 1, 0, -1).double()
    scheduler.is_scale_input_called = True  # it has no say in the steps
    return scheduler


def scaled(name: str, inner: float | None = None, **settings: Any) -> Reference:
    """A scheduler in the coordinates x / sqrt(1 + sigma^2). With `inner`, a step takes two of its own."""

    def walk(sigmas: Tensor, x: Tensor) -> States:
        if inner is not None:
            between = (sigmas[:-2].log() * (1 - inner) + sigmas[1:-1].log() * inner).exp()
            sigmas = torch.cat([torch.stack([sigmas[:-2], between], dim=1).flatten(), sigmas[-2:]])
        scheduler = prepared(name, sigmas, prediction_type="sample", **settings)
        s, states = (1 + sigmas**2).rsqrt(), []
        x = s[0] * x
        for number, t in enumerate(scheduler.timesteps[:-1]):
            x = scheduler.step(denoised(x / s[number], sigmas[number]), t, x).prev_sample
            states.append(x / s[number + 1])
        return states[1::2] if inner is not None else states

    return walk


def plain(name: str, **of_step: Any) -> Reference:
    """A scheduler without scaling, that is told the noise."""

    def walk(sigmas: Tensor, x: Tensor) -> States:
        scheduler, states = prepared(name, sigmas), []
        for sigma, t in zip(sigmas[:-2], scheduler.timesteps[:-1], strict=False):
            x = scheduler.step((x - denoised(x, sigma)) / sigma, t, x, **of_step).prev_sample
            states.append(x)
        return states

    return walk


def two_stages(name: str, inner: float) -> Reference:
    """HeunDiscrete and KDPM2Discrete, which call a step twice."""

    def walk(sigmas: Tensor, x: Tensor) -> States:
        scheduler = prepared(name, sigmas)
        scheduler.sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
        between = (sigmas[:-2].log() * (1 - inner) + sigmas[1:-1].log() * inner).exp()
        scheduler.sigmas_interpol = torch.cat([sigmas[:1], between.repeat_interleave(2)])
        states = []
        for sigma, middle in zip(sigmas[:-2], between, strict=True):
            for level in (sigma, middle):
                x = scheduler.step((x - denoised(x, level)) / level, scheduler.timesteps[0], x).prev_sample
            states.append(x)
        return states

    return walk


def edm(name: str, **settings: Any) -> Reference:
    """The EDM schedulers, that are told what the network F puts out."""

    def walk(sigmas: Tensor, x: Tensor) -> States:
        scheduler, states = prepared(name, sigmas, sigma_data=0.5, **settings), []
        for sigma, t in zip(sigmas[:-2], scheduler.timesteps[:-1], strict=False):
            c_noise = (sigma.log() / 4).expand(len(x))
            output = DENOISER.network(x * (sigma**2 + 0.25).rsqrt(), c_noise, None).detach()
            x = scheduler.step(output, t, x).prev_sample
            states.append(x)
        return states

    return walk


def ipndm(sigmas: Tensor, x: Tensor) -> States:
    """IPNDMScheduler, that is told v, in the coordinates x / sqrt(1 + sigma^2)."""
    scheduler = prepared("IPNDMScheduler", sigmas)
    s = (1 + sigmas**2).rsqrt()
    scheduler.alphas, scheduler.betas = s, sigmas * s
    x, states = s[0] * x, []
    for number, t in enumerate(scheduler.timesteps[:-1]):
        image = denoised(x / s[number], sigmas[number])
        noise = (x / s[number] - image) / sigmas[number]
        x = scheduler.step(s[number] * noise - sigmas[number] * s[number] * image, t, x).prev_sample
        states.append(x / s[number + 1])
    return states


def cases() -> list[Any]:
    found: list[tuple[str, Any, Reference, float]] = [
        ("EulerDiscrete", Euler(), plain("EulerDiscreteScheduler"), IN_FLOAT32),
        ("EDMEuler", Euler(), edm("EDMEulerScheduler"), IN_FLOAT32),
        ("HeunDiscrete", Heun(), two_stages("HeunDiscreteScheduler", 1.0), IN_FLOAT64),
        ("KDPM2Discrete", DPMSolver2(), two_stages("KDPM2DiscreteScheduler", 0.5), IN_FLOAT64),
        ("IPNDM", IPNDM(), ipndm, IN_FLOAT64),
    ]
    for r in (0.5, 0.3, 0.8):
        first = {"solver_order": 2, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}
        singlestep = "DPMSolverSinglestepScheduler"
        found.append((f"singlestep-{r}", DPMSolver2(r=r), scaled(singlestep, inner=r, **first), IN_FLOAT64))
        found.append((f"singlestep-{r}", DPMpp2S(r=r), scaled(singlestep, inner=r, solver_order=2), IN_FLOAT64))
    for order, solver in ((2, DPMpp2M()), (3, DPMpp3M())):
        settings = {"solver_order": order}
        found.append(("multistep", solver, scaled("DPMSolverMultistepScheduler", **settings), IN_FLOAT32))
        found.append(("EDMmultistep", solver, edm("EDMDPMSolverMultistepScheduler", **settings), IN_FLOAT64))
    for order in (1, 2, 3, 4):
        reference = plain("LMSDiscreteScheduler", order=order)
        found += [("LMSDiscrete", solver(max_order=order), reference, IN_FLOAT64) for solver in (LMS, IPNDMv)]
    for order in (1, 2, 3):
        settings, solver = {"solver_order": order}, DEIS(max_order=order, time="log_rho", lower_order_final=True)
        found.append(("DEISMultistep", solver, scaled("DEISMultistepScheduler", **settings), IN_FLOAT64))
        for variant in ("bh1", "bh2"):
            reference = scaled("UniPCMultistepScheduler", solver_type=variant, **settings)
            found.append(("UniPCMultistep", UniPC(variant=variant, max_order=order), reference, IN_FLOAT64))
            free = scaled("UniPCMultistepScheduler", solver_type=variant, lower_order_final=False, **settings)
            solver = UniPC(variant=variant, max_order=order, lower_order_final=False)
            found.append(("UniPCMultistep", solver, free, IN_FLOAT64))
    return [
        pytest.param(solver, reference, tolerance, id=f"{solver!r}-{name}")
        for name, solver, reference, tolerance in found
    ]


# In runs of 15 steps and more these two do not lower their order at the end, whatever they are told.
ONLY_IN_SHORT_RUNS = (DPMpp3M, DEIS)


@pytest.mark.parametrize(("solver", "reference", "tolerance"), cases())
def test_a_solver_makes_the_steps_that_diffusers_makes(solver, reference, tolerance):
    for num_steps in NUM_STEPS:
        if isinstance(solver, ONLY_IN_SHORT_RUNS) and num_steps >= 15:
            solver = type(solver)(**{**vars(solver), "lower_order_final": False})
        mine, sigmas = ours(solver, num_steps)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sigmas given as tensors
            theirs = reference(sigmas, sigmas[0] * normal(SEEDS, draw(INITIAL, 0), SHAPE))
        assert len(mine) == len(theirs) == num_steps - 1
        for sigma, a, b in zip(sigmas[1:-1], mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=tolerance * max(1.0, float(sigma)))


def test_every_deterministic_solver_is_checked_against_something():
    kinds = {member.kind for member in members(Solver) if not member.stochastic}
    assert set(CHECKED) == kinds, "name here what a solver is checked against"
    with_diffusers = {kind for kind, what in CHECKED.items() if "diffusers" in what}
    assert with_diffusers == {case.values[0].kind for case in cases()}
