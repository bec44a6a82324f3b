"""Ancestral sampling: each step jumps below its end and is brought back by new noise (DDPM; DDIM with eta)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from pipeline.diffusion.flow import Flow
from pipeline.diffusion.seeds import Noise
from pipeline.diffusion.solvers.base import MANY, Memory, Step
from pipeline.diffusion.solvers.plain import plain
from pipeline.diffusion.solvers.renoising import ancestral_decay, renoise


@dataclass(frozen=True)
class EulerAncestral:
    """DDIM with eta (Song et al. 2020, arXiv 2010.02502, Eq. 16): 0 is DDIM, 1 is ancestral sampling as in DDPM.

    The same step as "Euler ancestral" of public toolboxes. Independent of schedule and scaling; DDIM is Euler on the
    linear schedule.
    """

    kind: Literal["euler_ancestral"] = "euler_ancestral"
    eta: float = 1.0
    s_noise: float = 1.0
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    evaluations: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_eta(self.eta, 1.0)
        check_s_noise(self.s_noise)

    @property
    def order(self) -> int:
        return 1

    def step(
        self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int = MANY
    ) -> Step:
        move = plain(flow, x, t, t_next)
        decay = ancestral_decay(move.sigma, move.sigma_next, self.eta)
        denoised = flow.denoised(x, t)
        return move.step(renoise(move.x, denoised, move.sigma, move.sigma_next, decay, noise, self.s_noise))


def check_eta(eta: float, most: float) -> None:
    """Raises ValueError where eta lies outside [0, most]."""
    if not (0 <= eta <= most and eta < float("inf")):
        limit = f"between 0 and {most:g}" if most < float("inf") else "0 or more"
        raise ValueError(f"eta: must be {limit} (got {eta})")


def check_s_noise(s_noise: float) -> None:
    """Raises ValueError where s_noise is negative or not finite."""
    if not 0 <= s_noise < float("inf"):
        raise ValueError(f"s_noise: must be 0 or more (got {s_noise})")
