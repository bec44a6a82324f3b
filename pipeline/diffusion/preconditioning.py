"""Preconditioning: how a denoiser D is made of a network F (Karras et al. 2022, Eq. 7 and Table 1).

    D(x; sigma) = c_skip(sigma) x + c_out(sigma) F(c_in(sigma) x; c_noise(sigma))

`sigma_data` is not a field of a preconditioning: it is a property of the data, kept once (in the `Denoiser`, from the
training's settings) and handed to whatever needs it.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from pipeline.diffusion.schedules import VP, RectifiedFlow, RectifiedFlowScaling
from pipeline.diffusion.timesteps import NoiseLevels, check_iddpm, iddpm_levels


class Coefficients(NamedTuple):
    """The four functions at one sigma, each of sigma's shape."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


class PreconditioningShape(Protocol):
    def coefficients(self, sigma: Tensor, sigma_data: float) -> Coefficients: ...

    def levels(self) -> NoiseLevels:
        """The noise levels that a network of this preconditioning can be asked."""
        ...


@dataclass(frozen=True)
class VPPreconditioning:
    """Column VP of Table 1: F predicts the noise (c_out = -sigma, c_skip = 1) and is told the time, (M - 1) t."""

    kind: Literal["vp"] = "vp"
    beta_d: float = 19.9
    beta_min: float = 0.1
    M: int = 1000
    epsilon_t: float = 1e-5
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        VP(beta_d=self.beta_d, beta_min=self.beta_min)
        if self.M < 2:
            raise ValueError(f"M: must be at least 2 (got {self.M})")
        if not 0 < self.epsilon_t < 1:
            raise ValueError(f"epsilon_t: must lie between 0 and 1 (got {self.epsilon_t})")

    def coefficients(self, sigma: Tensor, sigma_data: float) -> Coefficients:
        c_noise = (self.M - 1) * self._schedule.sigma_inv(sigma)
        return Coefficients(torch.ones_like(sigma), -sigma, (sigma**2 + 1).rsqrt(), c_noise)

    def levels(self) -> NoiseLevels:
        low, high = self._schedule.sigma(torch.tensor([self.epsilon_t, 1.0], dtype=torch.float64)).tolist()
        return NoiseLevels(low, high)

    @property
    def _schedule(self) -> VP:
        return VP(beta_d=self.beta_d, beta_min=self.beta_min)


@dataclass(frozen=True)
class VEPreconditioning:
    """Column VE of Table 1: F predicts the negative noise and is told ln(sigma / 2)."""

    kind: Literal["ve"] = "ve"
    sigma_min: float = 0.02
    sigma_max: float = 100.0
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"sigma_min: must be positive and less than sigma_max (got {self.sigma_min} and {self.sigma_max})"
            )

    def coefficients(self, sigma: Tensor, sigma_data: float) -> Coefficients:
        return Coefficients(torch.ones_like(sigma), sigma, torch.ones_like(sigma), (0.5 * sigma).log())

    def levels(self) -> NoiseLevels:
        return NoiseLevels(self.sigma_min, self.sigma_max)


@dataclass(frozen=True)
class IDDPMPreconditioning:
    """Column iDDPM of Table 1: as VP, but the network knows only the M levels u_j and is told an index."""

    kind: Literal["iddpm"] = "iddpm"
    M: int = 1000
    C_1: float = 0.001
    C_2: float = 0.008
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_iddpm(self.M, self.C_1, self.C_2)

    def coefficients(self, sigma: Tensor, sigma_data: float) -> Coefficients:
        c_noise = (self.M - 1 - self._nearest(sigma)).to(sigma.dtype)
        return Coefficients(torch.ones_like(sigma), -sigma, (sigma**2 + 1).rsqrt(), c_noise)

    def levels(self) -> NoiseLevels:
        u = self._u(torch.device("cpu"))
        return NoiseLevels(float(u[self.M - 1]), float(u[0]), self.round_sigma)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """The nearest u_j, j < M, of each sigma."""
        return self._u(sigma.device)[self._nearest(sigma)].to(sigma.dtype)

    def _nearest(self, sigma: Tensor) -> Tensor:
        u = self._u(sigma.device)[: self.M].flip(0)  # ascending
        flat = sigma.to(torch.float64).contiguous()
        above = torch.searchsorted(u, flat).clamp(1, self.M - 1)
        nearest = torch.where(flat - u[above - 1] < u[above] - flat, above - 1, above)
        return self.M - 1 - nearest

    def _u(self, device: torch.device) -> Tensor:
        return _table(self.M, self.C_1, self.C_2, device)


@cache
def _table(M: int, C_1: float, C_2: float, device: torch.device) -> Tensor:
    return iddpm_levels(M, C_1, C_2).to(device)


@dataclass(frozen=True)
class EDMPreconditioning:
    """Column EDM of Table 1: input and training target of F have variance 1 at every sigma."""

    kind: Literal["edm"] = "edm"
    revision: ClassVar[int] = 1

    def coefficients(self, sigma: Tensor, sigma_data: float) -> Coefficients:
        total = sigma**2 + sigma_data**2
        return Coefficients(sigma_data**2 / total, sigma * sigma_data * total.rsqrt(), total.rsqrt(), sigma.log() / 4)

    def levels(self) -> NoiseLevels:
        return NoiseLevels(0.0, math.inf)


@dataclass(frozen=True)
class RectifiedFlowPreconditioning:
    """F predicts the velocity n - y of the rectified flow x_t = (1 - t) y + t n, and is told M t.

    x_t is x / (1 + sigma) with t = sigma / (1 + sigma), and y = x_t - t (n - y) makes the denoiser (Liu et al. 2022,
    arXiv 2209.03003). sigma is infinite at t = 1, where nothing is left of the data: levels end at t = 1 - epsilon_t.

    Args:
        M: what the time is multiplied with for the network; 1000 suits its positional embedding.
        epsilon_t: how far from pure noise the levels end.
    """

    kind: Literal["flow"] = "flow"
    M: float = 1000.0
    epsilon_t: float = 1e-3
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not 0 < self.M < math.inf:
            raise ValueError(f"M: must be positive (got {self.M})")
        if not 0 < self.epsilon_t < 1:
            raise ValueError(f"epsilon_t: must lie between 0 and 1 (got {self.epsilon_t})")

    def coefficients(self, sigma: Tensor, sigma_data: float) -> Coefficients:
        t, s = RectifiedFlow().sigma_inv(sigma), RectifiedFlowScaling().s(sigma)
        return Coefficients(s, -t, s, self.M * t)

    def levels(self) -> NoiseLevels:
        return NoiseLevels(0.0, (1 - self.epsilon_t) / self.epsilon_t)


Preconditioning = (
    VPPreconditioning | VEPreconditioning | IDDPMPreconditioning | EDMPreconditioning | RectifiedFlowPreconditioning
)


def per_sample(values: Tensor, x: Tensor) -> Tensor:
    """(N,) as (N, 1, ..., 1), to be multiplied with x of shape (N, ...)."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


class Denoiser(nn.Module):
    """D(x; sigma, labels) of a network and a preconditioning.

    Args:
        network: F(x, c_noise, labels), or with a fourth argument where it is told of augmentation; it runs in the
            precision of its own parameters, or under autocast.
        preconditioning: the four coefficient functions.
        sigma_data: the standard deviation of the data, in the model's range.
    """

    def __init__(self, network: nn.Module, preconditioning: Preconditioning, sigma_data: float) -> None:
        super().__init__()
        if not sigma_data > 0:
            raise ValueError(f"sigma_data: must be positive (got {sigma_data})")
        self.network = network
        self.preconditioning = preconditioning
        self.sigma_data = sigma_data

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None, augment: Tensor | None = None) -> Tensor:
        """The denoised image.

        Args:
            x: noisy images y + sigma n, without scaling, of shape (N, C, H, W).
            sigma: noise levels of shape (N,).
            labels: int64 of shape (N,), -1 for none; or None.
            augment: in training, what was done to y, of shape (N, 9); None for nothing, as in sampling.

        Returns:
            The estimate of y, of x's shape and dtype. Coefficients are float64, whatever the network's precision.
        """
        c = self.preconditioning.coefficients(sigma.to(torch.float64), self.sigma_data)
        dtype = self.dtype
        network_x = (per_sample(c.c_in, x).to(x.dtype) * x).to(dtype)
        # Half precision cannot tell neighbouring times apart, so the network gets c_noise in float32 at least.
        c_noise = c.c_noise.to(torch.promote_types(dtype, torch.float32))
        conditions = (labels,) if augment is None else (labels, augment)
        output: Tensor = self.network(network_x, c_noise, *conditions)
        output = output[:, : x.shape[1]]  # a learned variance, if there is one, is not ours
        return per_sample(c.c_skip, x).to(x.dtype) * x + per_sample(c.c_out, x).to(x.dtype) * output.to(x.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the network's parameters; float64 for one that has none."""
        return next((parameter.dtype for parameter in self.network.parameters()), torch.float64)

    @property
    def levels(self) -> NoiseLevels:
        return self.preconditioning.levels()
