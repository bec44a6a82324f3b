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
        return self.M - 1 - nearest_index(self._u(sigma.device)[: self.M].flip(0), sigma)

    def _u(self, device: torch.device) -> Tensor:
        return _table(self.M, self.C_1, self.C_2, device)


def nearest_index(levels: Tensor, sigma: Tensor) -> Tensor:
    """The index of the level that is nearest to each sigma.

    Args:
        levels: ascending, float64, at least two.
        sigma: any shape.
    """
    flat = sigma.to(torch.float64).contiguous()
    above = torch.searchsorted(levels, flat).clamp(1, len(levels) - 1)
    return torch.where(flat - levels[above - 1] < levels[above] - flat, above - 1, above)


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
class DiscretePreconditioning:
    """A VP network of M discrete levels, told the level's index j, as DDPM and its descendants train them.

    sigma_j^2 = 1 / abar_j - 1 with abar_j the product of 1 - beta_i, i <= j (Ho et al. 2020, section 2). F predicts the
    noise, the image, or v = sqrt(abar) n - sqrt(1 - abar) y (Salimans and Ho 2022, appendix D).

    Args:
        schedule: of beta: `linear`; `scaled_linear`, linear in the square root; `cosine`, abar = cos^2 capped at
            beta = 0.999, which takes no beta_start and beta_end (Nichol and Dhariwal 2021); `sigmoid`.
        M: levels.
        prediction: what F predicts.
        betas: all of them, in the place of `schedule`, `beta_start`, `beta_end` and `M`; empty where these say it.

    Raises:
        ValueError: a value is out of its range.
    """

    kind: Literal["discrete"] = "discrete"
    schedule: Literal["linear", "scaled_linear", "cosine", "sigmoid"] = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    M: int = 1000
    prediction: Literal["epsilon", "v", "sample"] = "epsilon"
    betas: tuple[float, ...] = ()
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"beta_start: must be positive and at most beta_end, which is below 1 "
                f"(got {self.beta_start} and {self.beta_end})"
            )
        if not 2 <= self.M <= 1_000_000:
            raise ValueError(f"M: must be at least 2 and at most a million (got {self.M})")
        if self.betas and (len(self.betas) < 2 or not all(0 < beta < 1 for beta in self.betas)):
            raise ValueError("betas: must be at least two numbers between 0 and 1")
        if not math.isfinite(float(self._sigma(torch.device("cpu"))[-1])):
            raise ValueError(f"betas: nothing of the image is left at the last of {self.M} levels; use fewer levels")

    def coefficients(self, sigma: Tensor, sigma_data: float) -> Coefficients:
        c_in = (sigma**2 + 1).rsqrt()
        c_noise = nearest_index(self._sigma(sigma.device), sigma).to(sigma.dtype)
        match self.prediction:
            case "epsilon":
                return Coefficients(torch.ones_like(sigma), -sigma, c_in, c_noise)
            case "v":
                return Coefficients(c_in**2, -sigma * c_in, c_in, c_noise)
            case "sample":
                return Coefficients(torch.zeros_like(sigma), torch.ones_like(sigma), c_in, c_noise)

    def levels(self) -> NoiseLevels:
        sigma = self._sigma(torch.device("cpu"))
        return NoiseLevels(float(sigma[0]), float(sigma[-1]), self.round_sigma)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """The nearest sigma_j of each sigma."""
        levels = self._sigma(sigma.device)
        return levels[nearest_index(levels, sigma)].to(sigma.dtype)

    def _sigma(self, device: torch.device) -> Tensor:
        return _discrete_levels(self.schedule, self.beta_start, self.beta_end, self.M, self.betas, device)


@cache
def _discrete_levels(
    schedule: str, beta_start: float, beta_end: float, M: int, betas: tuple[float, ...], device: torch.device
) -> Tensor:
    """sigma_0 < ... < sigma_{M-1}, float64."""
    ramp = torch.linspace(0, 1, M, dtype=torch.float64)
    match "explicit" if betas else schedule:
        case "linear":
            beta = beta_start + ramp * (beta_end - beta_start)
        case "scaled_linear":
            beta = (beta_start**0.5 + ramp * (beta_end**0.5 - beta_start**0.5)) ** 2
        case "sigmoid":
            beta = beta_start + torch.sigmoid(12 * ramp - 6) * (beta_end - beta_start)
        case "cosine":
            t = torch.arange(M + 1, dtype=torch.float64) / M
            abar = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
            beta = (1 - abar[1:] / abar[:-1]).clamp(max=0.999)
        case _:
            beta = torch.tensor(betas, dtype=torch.float64)
    log_abar = torch.log1p(-beta).cumsum(0)
    return torch.expm1(-log_abar).sqrt().to(device)


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
    VPPreconditioning
    | VEPreconditioning
    | IDDPMPreconditioning
    | EDMPreconditioning
    | DiscretePreconditioning
    | RectifiedFlowPreconditioning
)


def per_sample(values: Tensor, x: Tensor) -> Tensor:
    """(N,) as (N, 1, ..., 1), to be multiplied with x of shape (N, ...)."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


class Denoiser(nn.Module):
    """D(x; sigma, labels) of a network and a preconditioning.

    Args:
        network: F(x, c_noise, labels); it runs in the precision of its own parameters, or under autocast.
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

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """The denoised image.

        Args:
            x: noisy images y + sigma n, without scaling, of shape (N, C, H, W).
            sigma: noise levels of shape (N,).
            labels: int64 of shape (N,), -1 for none; or None.

        Returns:
            The estimate of y, of x's shape and dtype. Coefficients are float64, whatever the network's precision.
        """
        c = self.preconditioning.coefficients(sigma.to(torch.float64), self.sigma_data)
        dtype = self.dtype
        network_x = (per_sample(c.c_in, x).to(x.dtype) * x).to(dtype)
        # Half precision cannot tell neighbouring times apart, so the network gets c_noise in float32 at least.
        c_noise = c.c_noise.to(torch.promote_types(dtype, torch.float32))
        output: Tensor = self.network(network_x, c_noise, labels)
        output = output[:, : x.shape[1]]  # a learned variance, if there is one, is not ours
        return per_sample(c.c_skip, x).to(x.dtype) * x + per_sample(c.c_out, x).to(x.dtype) * output.to(x.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the network's parameters; float64 for one that has none."""
        return next((parameter.dtype for parameter in self.network.parameters()), torch.float64)

    @property
    def levels(self) -> NoiseLevels:
        return self.preconditioning.levels()
