"""Noise schedules sigma(t) and scalings s, chosen independently of each other and of the network.

The state of a sample is x(t) = s(t) (y + sigma(t) n) (Karras et al. 2022, section 2 and Table 1). The paper gives s as
a function of t; every one in use depends on t through sigma alone, so here it is a function of sigma, and any scaling
goes with any schedule: s_dot(t) = ds/dsigma * sigma_dot(t).

All functions are elementwise on float64 tensors of any shape.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from torch import Tensor


class ScheduleShape(Protocol):
    """What a schedule is asked: sigma(t) strictly increasing from sigma(0) = 0."""

    def sigma(self, t: Tensor) -> Tensor: ...

    def sigma_dot(self, t: Tensor) -> Tensor:
        """d sigma / d t."""
        ...

    def sigma_inv(self, sigma: Tensor) -> Tensor:
        """The t at which sigma(t) is `sigma`."""
        ...


class ScalingShape(Protocol):
    def s(self, sigma: Tensor) -> Tensor: ...

    def ds_dsigma(self, sigma: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class VP:
    """sigma(t) = sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1), t in [0, 1] (Table 1, column VP)."""

    kind: Literal["vp"] = "vp"
    beta_d: float = 19.9
    beta_min: float = 0.1
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not 0 < self.beta_d < math.inf:
            raise ValueError(f"beta_d: must be positive (got {self.beta_d})")
        if not 0 <= self.beta_min < math.inf:
            raise ValueError(f"beta_min: must be 0 or more (got {self.beta_min})")

    def sigma(self, t: Tensor) -> Tensor:
        return (0.5 * self.beta_d * t**2 + self.beta_min * t).expm1().sqrt()

    def sigma_dot(self, t: Tensor) -> Tensor:
        sigma = self.sigma(t)
        return 0.5 * (self.beta_min + self.beta_d * t) * (sigma + 1 / sigma)

    def sigma_inv(self, sigma: Tensor) -> Tensor:
        # (sqrt(b^2 + 2 a c) - b) / a without the cancellation at small sigma.
        twice = 2 * (sigma**2).log1p()
        return twice / ((self.beta_min**2 + self.beta_d * twice).sqrt() + self.beta_min)


@dataclass(frozen=True)
class VE:
    """sigma(t) = sqrt(t) (Table 1, column VE)."""

    kind: Literal["ve"] = "ve"
    revision: ClassVar[int] = 1

    def sigma(self, t: Tensor) -> Tensor:
        return t.sqrt()

    def sigma_dot(self, t: Tensor) -> Tensor:
        return 0.5 / t.sqrt()

    def sigma_inv(self, sigma: Tensor) -> Tensor:
        return sigma**2


@dataclass(frozen=True)
class Linear:
    """sigma(t) = t (Table 1, columns iDDPM and EDM): time is the noise level."""

    kind: Literal["linear"] = "linear"
    revision: ClassVar[int] = 1

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def sigma_dot(self, t: Tensor) -> Tensor:
        return t.new_ones(t.shape)

    def sigma_inv(self, sigma: Tensor) -> Tensor:
        return sigma


@dataclass(frozen=True)
class RectifiedFlow:
    """sigma(t) = t / (1 - t), t in [0, 1): with its scaling x = (1 - t) y + t n (Liu et al. 2022, arXiv 2209.03003)."""

    kind: Literal["flow"] = "flow"
    revision: ClassVar[int] = 1

    def sigma(self, t: Tensor) -> Tensor:
        return t / (1 - t)

    def sigma_dot(self, t: Tensor) -> Tensor:
        return (1 - t) ** -2

    def sigma_inv(self, sigma: Tensor) -> Tensor:
        return sigma / (1 + sigma)


@dataclass(frozen=True)
class Unscaled:
    """s = 1 (Table 1, columns VE, iDDPM and EDM)."""

    kind: Literal["none"] = "none"
    revision: ClassVar[int] = 1

    def s(self, sigma: Tensor) -> Tensor:
        return sigma.new_ones(sigma.shape)

    def ds_dsigma(self, sigma: Tensor) -> Tensor:
        return sigma.new_zeros(sigma.shape)


@dataclass(frozen=True)
class VPScaling:
    """s = 1 / sqrt(1 + sigma^2) (Table 1, column VP): noise of variance 1 at the end."""

    kind: Literal["vp"] = "vp"
    revision: ClassVar[int] = 1

    def s(self, sigma: Tensor) -> Tensor:
        return (1 + sigma**2).rsqrt()

    def ds_dsigma(self, sigma: Tensor) -> Tensor:
        # A general power is computed otherwise for one number than for many: bits would depend on the batch.
        return -sigma * self.s(sigma) ** 3


@dataclass(frozen=True)
class RectifiedFlowScaling:
    """s = 1 / (1 + sigma), which is 1 - t of the rectified flow: data and noise have weights that add up to 1.

    Liu et al. 2022, arXiv 2209.03003.
    """

    kind: Literal["flow"] = "flow"
    revision: ClassVar[int] = 1

    def s(self, sigma: Tensor) -> Tensor:
        return 1 / (1 + sigma)

    def ds_dsigma(self, sigma: Tensor) -> Tensor:
        return -((1 + sigma) ** -2)


Schedule = VP | VE | Linear | RectifiedFlow
Scaling = Unscaled | VPScaling | RectifiedFlowScaling
