"""The stochastic members of the DPM-Solver++ family (Lu et al. 2022, arXiv 2211.01095, and public toolboxes).

All in x / s and lambda = -ln sigma, with the linear part and the noise exact (see `renoising`).
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from pipeline.diffusion.flow import Flow
from pipeline.diffusion.preconditioning import per_sample
from pipeline.diffusion.seeds import Noise
from pipeline.diffusion.solvers.ancestral import check_eta, check_s_noise
from pipeline.diffusion.solvers.base import MANY, Memory, Step
from pipeline.diffusion.solvers.plain import plain
from pipeline.diffusion.solvers.renoising import (
    ancestral_decay,
    recall,
    remember,
    renoise,
    weighted,
)


@dataclass(frozen=True)
class DPMppSDE:
    """DPM++ SDE: a second evaluation at the ratio r of the step in lambda, and ancestral noise of amount eta in both.

    The noise of the part of the step and of the whole lie on one Brownian path. eta = 0 is DPM-Solver++ (2S) with r
    (Lu et al. 2022, arXiv 2211.01095). With eta between 0 and 1 the amount of noise depends on the length of the steps
    (as in DDIM), so the SDE that is solved is met with order 1 only; the variance still converges with order 2.
    """

    kind: Literal["dpmpp_sde"] = "dpmpp_sde"
    r: float = 0.5
    eta: float = 1.0
    s_noise: float = 1.0
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    evaluations: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not 0 < self.r <= 1:
            raise ValueError(f"r: must be above 0 and at most 1 (got {self.r})")
        check_eta(self.eta, 1.0)
        check_s_noise(self.s_noise)

    @property
    def order(self) -> int:
        return 2 if self.eta in (0, 1) else 1

    def step(
        self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int = MANY
    ) -> Step:
        move = plain(flow, x, t, t_next)
        z, sigma, sigma_next = move.x, move.sigma, move.sigma_next

        def jump(denoised: Tensor, level: Tensor) -> Tensor:
            return renoise(z, denoised, sigma, level, ancestral_decay(sigma, level, self.eta), noise, self.s_noise)

        # sigma exp(-1 h) may miss sigma_next by a rounding error.
        between = sigma_next if self.r == 1 else sigma * (-self.r * move.h).exp()
        first = flow.denoised(x, t)
        second = move.flow.denoised(jump(first, between), between)
        weight = 1 / (2 * self.r)
        return move.step(jump((1 - weight) * first + weight * second, sigma_next))


@dataclass(frozen=True)
class DPMpp2MSDE:
    """DPM++ 2M SDE: D extrapolated from the last two evaluations; decay eta h, so beta = eta sigma_dot / sigma.

    The forms weigh the slope of D by (1 - exp(-H)) / 2 (`midpoint`) or exactly (`heun`), H = (1 + eta) h. The first
    step of a sample is of first order. eta = 0 is DPM-Solver++ (2M), eta = 1 the stochastic form of Lu et al. 2022
    (arXiv 2211.01095).
    """

    kind: Literal["dpmpp_2m_sde"] = "dpmpp_2m_sde"
    eta: float = 1.0
    s_noise: float = 1.0
    form: Literal["midpoint", "heun"] = "midpoint"
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    evaluations: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_eta(self.eta, float("inf"))
        check_s_noise(self.s_noise)
        if self.form not in ("midpoint", "heun"):
            raise ValueError(f"form: must be midpoint or heun (got {self.form!r})")

    @property
    def order(self) -> int:
        return 2

    def step(
        self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int = MANY
    ) -> Step:
        move = plain(flow, x, t, t_next)
        z, sigma, sigma_next, h = move.x, move.sigma, move.sigma_next, move.h
        denoised = flow.denoised(x, t)
        (last,) = recall(memory, 1, denoised, move)
        H, r = (1 + self.eta) * h, (last.sigma / sigma).log() / h
        of_slope = -(-H).expm1() / 2 if self.form == "midpoint" else _phi_2(H)
        z_next = renoise(z, denoised, sigma, sigma_next, self.eta * h, noise, self.s_noise)
        z_next = z_next + weighted(of_slope / r, denoised - last.denoised, last.known)
        return move.step(z_next, remember(memory, 1, denoised, sigma))


@dataclass(frozen=True)
class DPMpp3MSDE:
    """DPM++ 3M SDE: D extrapolated from the last three evaluations; decay eta h as in 2M SDE.

    In the published form, whose second difference lacks a factor 2: its order is 2, with noise and without. The first
    step of a sample is of first order, the second is 2M SDE in the `heun` form. eta = 0 is DPM-Solver++ (3M) of Lu et
    al. 2022 (arXiv 2211.01095).
    """

    kind: Literal["dpmpp_3m_sde"] = "dpmpp_3m_sde"
    eta: float = 1.0
    s_noise: float = 1.0
    revision: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
    evaluations: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_eta(self.eta, float("inf"))
        check_s_noise(self.s_noise)

    @property
    def order(self) -> int:
        return 2

    def step(
        self, flow: Flow, x: Tensor, t: Tensor, t_next: Tensor, memory: Memory, noise: Noise, ahead: int = MANY
    ) -> Step:
        move = plain(flow, x, t, t_next)
        z, sigma, sigma_next, h = move.x, move.sigma, move.sigma_next, move.h
        denoised = flow.denoised(x, t)
        last, before = recall(memory, 2, denoised, move)
        H = (1 + self.eta) * h
        r_0, r_1 = (last.sigma / sigma).log() / h, (before.sigma / last.sigma).log() / h
        slope = (denoised - last.denoised) / per_sample(r_0, z)
        bend = (slope - (last.denoised - before.denoised) / per_sample(r_1, z)) / per_sample(r_0 + r_1, z)
        phi_2 = _phi_2(H)
        z_next = renoise(z, denoised, sigma, sigma_next, self.eta * h, noise, self.s_noise)
        z_next = z_next + weighted(phi_2, slope, last.known)
        z_next = z_next + weighted(phi_2 * r_0 - phi_2 / H + 0.5, bend, before.known)
        return move.step(z_next, remember(memory, 2, denoised, sigma))


def _phi_2(H: Tensor) -> Tensor:
    """1 - (1 - exp(-H)) / H."""
    return (-H).expm1() / H + 1
