"""The loop, written once: from noise to images, for every schedule, grid, solver, stochasticity and guidance.

What drives it is a plan (`plans.py`): steps, or adding noise to climb back to a higher level. A move that its plan
rejects is taken back, sample by sample.

States and noise are on the device of the seeds. Whatever there is one of a sample (noise level, time, label, count) is
on the CPU, which decides by it what comes next. Where the levels are known ahead it never waits for the device, and is
ahead of it with its orders; adaptive steps wait once a step, for their error.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from pipeline.diffusion.flow import Flow
from pipeline.diffusion.guidance import Denoise, Guidance, Unguided, check_guide
from pipeline.diffusion.plans import AdaptivePlan, FixedPlan, Move, Plan
from pipeline.diffusion.preconditioning import per_sample
from pipeline.diffusion.schedules import Linear, Scaling, Schedule, Unscaled
from pipeline.diffusion.seeds import INITIAL, RENOISE, Noise, draw
from pipeline.diffusion.solvers import Euler, Heun, Memory, Solver, Step, error_order
from pipeline.diffusion.stochasticity import Deterministic, Stochasticity
from pipeline.diffusion.timesteps import AdaptiveSteps, EDMSteps, NoiseLevels, Timesteps, grid, steps_of


@dataclass(frozen=True)
class Sampler:
    """A point of the design space: everything that is chosen after training.

    `first_step: analytic` asks no network at the highest noise level, see `flow._linear`; a sampler of one step always
    asks.

    Raises:
        ValueError: an adaptive time grid with a solver or a stochasticity that it cannot go with.
    """

    timesteps: Timesteps = field(default_factory=EDMSteps)
    solver: Solver = field(default_factory=Heun)
    schedule: Schedule = field(default_factory=Linear)
    scaling: Scaling = field(default_factory=Unscaled)
    stochasticity: Stochasticity = field(default_factory=Deterministic)
    guidance: Guidance = field(default_factory=Unguided)
    first_step: Literal["network", "analytic"] = field(default="network", metadata={"since": 2})
    revision: ClassVar[int] = 1  # of what belongs to no part: the loop, the flow, the noise

    def __post_init__(self) -> None:
        if self.first_step not in ("network", "analytic"):
            raise ValueError(f"first_step: must be network or analytic (got {self.first_step})")
        if not isinstance(self.timesteps, AdaptiveSteps):
            return
        if self.solver.stochastic or error_order(self.solver) is None:
            able = [solver.kind for solver in get_args(Solver) if error_order(solver) and not solver.stochastic]
            raise ValueError(
                f"solver: the adaptive time grid needs a deterministic solver that estimates its error, "
                f"{' or '.join(able)} (got {self.solver.kind})"
            )
        if self.stochasticity != Deterministic():
            raise ValueError(
                f"stochasticity: the adaptive time grid does not go with {self.stochasticity.kind}, which needs steps "
                "that are known ahead; use kind none, or another time grid"
            )


class Samples(NamedTuple):
    """images: the states at sigma = 0, float64 of shape (N, C, H, W), in the model's range.
    nfe: network evaluations spent on each sample, counted, int64 of shape (N,), on the CPU."""

    images: Tensor
    nfe: Tensor


Callback = Callable[[int, Tensor, Tensor], None]  # (move, x, sigma_next): for pictures of trajectories and for tests


def sample(
    denoise: Denoise, network: NoiseLevels, sampler: Sampler, seeds: Tensor, shape: tuple[int, ...],
    labels: Tensor | None = None, on_move: Callback | None = None, guide: Denoise | None = None,
) -> Samples:  # fmt: skip
    """Images for seeds.

    Args:
        denoise: D(x, sigma, labels), such as a `Denoiser`.
        network: the noise levels it can be asked; with a guide, those that both can be (`NoiseLevels.common`).
        sampler: the settings.
        seeds: int64 of shape (N,), on the device of the work. A seed gives the same image in any company.
        shape: of one image, (C, H, W).
        labels: int64 of shape (N,), -1 for none; or None.
        on_move: told after every move.
        guide: the second network's D, for a guidance that needs one.

    Raises:
        ValueError: the grid has no N distinct steps for this network, the stochasticity does not go with them, or a
            guide is missing.
        RunFailedError: adaptive steps do not arrive.
    """
    if sampler.guidance.needs_guide:
        check_guide(sampler.guidance, guide)
    with torch.no_grad():
        sigmas = grid(sampler.timesteps, network)
        labels = labels if labels is None else labels.cpu()
        count = torch.zeros(len(seeds), dtype=torch.int64)
        is_analytic = sampler.first_step == "analytic" and len(sigmas) > 2
        # A little below sigma_0, for schedules return it with a rounding error.
        analytic_from = float(sigmas[0]) * (1 - 1e-9) if is_analytic else math.inf
        parts = sampler.schedule, sampler.scaling, sampler.guidance
        flow = Flow(denoise, *parts, labels, count, analytic_from, guide)
        noise = Noise(seeds, shape)
        sigma_0 = sigmas[:1].expand(len(seeds))
        x = noise.normal(draw(INITIAL, 0))
        x = per_sample(sigma_0 * flow.s(flow.t(sigma_0)), x) * x
        x = integrate(flow, x, make_plan(sampler, sigmas, network, len(seeds)), sampler, noise, network, on_move)
        return Samples(x, count)


def make_plan(sampler: Sampler, sigmas: Tensor, network: NoiseLevels, num_samples: int) -> Plan:
    """The plan that a sampler's time grid and stochasticity make.

    Args:
        sigmas: the grid for this network.

    Raises:
        ValueError: the stochasticity does not go with the grid or the network.
    """
    order = error_order(sampler.solver)
    if isinstance(sampler.timesteps, AdaptiveSteps) and order is not None:
        return AdaptivePlan(sampler.timesteps, sigmas, order, sampler.scaling, num_samples)
    return FixedPlan(sampler.stochasticity.walk(sigmas, network), num_samples)


def integrate(
    flow: Flow, x: Tensor, plan: Plan, sampler: Sampler, noise: Noise, network: NoiseLevels,
    on_move: Callback | None = None, memory: Memory = (),
) -> Tensor:  # fmt: skip
    """Follows a plan from the state x, with the solver's memory of earlier steps, and returns the state at its end."""
    index = 0
    while (move := plan.next()) is not None:
        climbing = move.sigma_next > move.sigma
        if bool(climbing.any()):
            epsilon = sampler.stochasticity.S_noise * noise.normal(draw(RENOISE, index))
            x, memory = _climb(flow, x, move, climbing, memory, epsilon)
            noise = noise.branch(climbing, index + 1)  # on its way down again it must meet other noise
            move = Move(torch.where(climbing, move.sigma_next, move.sigma), move.sigma_next)  # these stay, now
        if not bool(climbing.all()):
            step = _descend(flow, x, move, sampler, _Place(index, plan.num_steps, plan.ahead), noise, network, memory)
            x, memory = _keep(plan.judge(step), step, x, memory)
        if on_move is not None:
            on_move(index, x, move.sigma_next)
        index += 1
    return x


class _Place(NamedTuple):
    """Where in its plan a move stands."""

    number: int
    num_steps: int
    ahead: int


def _climb(
    flow: Flow, x: Tensor, move: Move, climbing: Tensor, memory: Memory, epsilon: Tensor
) -> tuple[Tensor, Memory]:
    """Adds the noise that leads from sigma up to sigma_next, and forgets the past; samples that do not climb stay."""
    s, s_next = flow.s(flow.t(move.sigma)), flow.s(flow.t(move.sigma_next))
    added = (move.sigma_next**2 - move.sigma**2).clamp(min=0).sqrt() * s_next
    climbed = per_sample(s_next / s, x) * x + per_sample(added, x) * epsilon
    kept_memory = tuple(torch.where(per_sample(climbing, item), torch.zeros_like(item), item) for item in memory)
    return torch.where(per_sample(climbing, x), climbed, x), kept_memory


def _descend(
    flow: Flow, x: Tensor, move: Move, sampler: Sampler, place: _Place, noise: Noise, network: NoiseLevels,
    memory: Memory,
) -> Step:  # fmt: skip
    """One step down. The last one, to sigma = 0, is Euler's in all solvers: no slope exists there."""
    moving = move.sigma_next < move.sigma
    last = moving & (move.sigma_next == 0)
    for group in (moving & ~last, last):
        if bool(group.all()):
            continue
        if bool(group.any()):
            return _descend_in_groups(flow, x, move, sampler, place, noise, network, memory)
    if not bool(moving.any()):
        return Step(x, memory)
    t, t_next = flow.t(move.sigma), flow.t(move.sigma_next)
    x_hat, t_hat = sampler.stochasticity.perturb(flow, x, t, place.num_steps, place.number, noise, network)
    if t_hat is not t:
        noise = noise.branch(t_hat > t, place.number + 1)
    if bool(last.all()):
        return Euler().step(flow, x_hat, t_hat, t_next, (), noise)._replace(memory=memory)
    return sampler.solver.step(flow, x_hat, t_hat, t_next, memory, noise, place.ahead)


def _descend_in_groups(
    flow: Flow, x: Tensor, move: Move, sampler: Sampler, place: _Place, noise: Noise, network: NoiseLevels,
    memory: Memory,
) -> Step:  # fmt: skip
    """As `_descend`, where some samples step, some make their last step and some have arrived: each group by itself."""
    moving, last = move.sigma_next < move.sigma, (move.sigma_next == 0) & (move.sigma > 0)
    x, error = x.clone(), None
    memory = tuple(item.clone() for item in memory)
    for group in (moving & ~last, last):
        chosen = group.nonzero()[:, 0]
        if not len(chosen):
            continue
        part = Move(move.sigma[chosen], move.sigma_next[chosen])
        of_part = tuple(item[chosen] for item in memory)
        step = _descend(flow.select(chosen), x[chosen], part, sampler, place, noise.select(chosen), network, of_part)
        x[chosen] = step.x
        if step.error is not None:
            error = torch.zeros_like(x) if error is None else error
            error[chosen] = step.error
        memory = memory or tuple(item.new_zeros(len(x), *item.shape[1:]) for item in step.memory)
        for whole, item in zip(memory, step.memory, strict=bool(step.memory)):
            whole[chosen] = item
    return Step(x, memory, error)


def _keep(kept: Tensor | None, step: Step, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
    """The state after a step that a plan has judged; a rejected sample keeps its state and its memory."""
    if kept is None:
        return step.x, step.memory
    previous = memory or tuple(torch.zeros_like(item) for item in step.memory)
    kept_memory = tuple(
        torch.where(per_sample(kept, new), new, old) for new, old in zip(step.memory, previous, strict=True)
    )
    return torch.where(per_sample(kept, x), step.x, x), kept_memory


def count_nfe(sampler: Sampler, network: NoiseLevels, label: int = -1) -> int | None:
    """Network evaluations a sample costs, a guide's among them, counted on one pixel and networks that answer zero;
    None where it varies.

    Args:
        sampler: the settings.
        network: the noise levels that the networks can be asked.
        label: of the sample, -1 for none: it may decide whether there is anything to guide by.

    Raises:
        ValueError: the grid has no N distinct steps for this network, or the stochasticity does not go with them.
    """
    if steps_of(sampler.timesteps) is None:
        return None
    seeds = torch.zeros(1, dtype=torch.int64)
    labels, guide = torch.full_like(seeds, label), _answer_zero
    return int(sample(_answer_zero, network, sampler, seeds, (1, 1, 1), labels, guide=guide).nfe[0])


def _answer_zero(x: Tensor, _sigma: Tensor, _labels: Tensor | None) -> Tensor:
    return torch.zeros_like(x)
