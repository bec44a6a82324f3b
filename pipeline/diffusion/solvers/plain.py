"""Steps in the coordinates (x / s, sigma), where data, noise and denoiser add up.

The flow reads d(x/s)/dsigma = (x/s - D) / sigma there, whatever the schedule and the scaling. So a solver that works in
them gives the same numbers under all of them, and its history of noise levels means the same.
"""

from typing import NamedTuple

from torch import Tensor

from pipeline.diffusion.flow import Flow
from pipeline.diffusion.preconditioning import per_sample
from pipeline.diffusion.solvers.base import Memory, Step


class Plain(NamedTuple):
    """A step to be made, in plain coordinates.

    flow: without scaling, with sigma for time.
    x: x / s at sigma, of shape (N, C, H, W).
    sigma, sigma_next: the ends of the step, of shape (N,).
    s_next: the scaling that the result gets back.
    """

    flow: Flow
    x: Tensor
    sigma: Tensor
    sigma_next: Tensor
    s_next: Tensor

    @property
    def h(self) -> Tensor:
        """The step in ln(1 / sigma), positive."""
        return (self.sigma / self.sigma_next).log()

    def step(self, x_next: Tensor, memory: Memory = ()) -> Step:
        """The way back, from plain coordinates at sigma_next."""
        return Step(per_sample(self.s_next, x_next) * x_next, memory)


def plain(flow: Flow, x: Tensor, t: Tensor, t_next: Tensor) -> Plain:
    """The way in."""
    return Plain(flow.plain(), x / per_sample(flow.s(t), x), flow.sigma(t), flow.sigma(t_next), flow.s(t_next))
