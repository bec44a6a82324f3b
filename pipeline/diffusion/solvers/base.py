"""What a solver is: one step of the flow, from t to t_next. The loop, churn and the last step are not its business."""

from typing import ClassVar, NamedTuple, Protocol

from torch import Tensor

from pipeline.diffusion.flow import Flow
from pipeline.diffusion.seeds import Noise

Memory = tuple[Tensor, ...]  # what a multistep solver keeps of earlier steps; the first dimension is the sample


class Step(NamedTuple):
    """What a step yields.

    x: the state at t_next, of shape (N, C, H, W).
    memory: to be handed to the next step.
    error: an estimate of the local error, of x's shape, where the solver has one; adaptive step control reads it,
        sample by sample.
    """

    x: Tensor
    memory: Memory = ()
    error: Tensor | None = None


class SolverShape(Protocol):
    stochastic: ClassVar[bool]  # whether steps add noise: then convergence is in distribution, not along a trajectory

    @property
    def order(self) -> int:
        """The order of convergence of the global error, which a test measures; of a stochastic one, the weak order."""
        ...

    @property
    def evaluations(self) -> int:
        """Calls of the denoiser a step; the last step, to sigma = 0, is not the solver's and costs one."""
        ...

    # A solver whose `Step.error` is set has `error_order: ClassVar[int]` besides: the power of the step with which that
    # error falls. See `error_order` below.

    def step(self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int) -> Step:
        """One step of every sample from its t to its t_next, both of shape (N,); sigma(t_next) > 0.

        `memory` is empty at the first step, and has the same number of items after every step. A sample without a past
        (its first step was rejected, or it has climbed) has zeros there. A solver that needs randomness takes it from
        `noise.between(sigma, sigma_next)`, never from a global generator. `ahead` is how many steps of the plan follow
        this one, the last one, to sigma = 0, among them; `MANY` where nobody knows.
        """
        ...


MANY = 1 << 30


def error_order(solver: object) -> int | None:
    """The power of the step with which a solver's own estimate of its error falls; None where it has no estimate."""
    order: int | None = getattr(solver, "error_order", None)
    return order
