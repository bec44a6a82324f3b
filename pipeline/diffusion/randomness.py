"""The amount of randomness beta(t) of the SDE (Karras et al. 2022, Eq. 6): a setting, to be found by experiment.

beta(t) is the relative rate at which old noise is replaced by new. Here it is given as a multiple of sigma_dot / sigma,
the choice that Song et al. (2021, arXiv 2011.13456) make implicitly, and as a function of sigma: so one setting means
one SDE on every schedule. All that a solver needs is its integral over a step, which every member has in closed form.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor


class BetaShape(Protocol):
    def decay(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        """The integral of beta(t) over the time between two levels, sigma >= sigma_next > 0, of their shape.

        Of the noise at the upper level, exp(-decay) is kept beyond what the probability flow removes of it.
        """
        ...


@dataclass(frozen=True)
class Zero:
    """beta = 0: no new noise, the probability flow (Karras et al. 2022, Eq. 1)."""

    kind: Literal["zero"] = "zero"
    revision: ClassVar[int] = 1

    def decay(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        return torch.zeros_like(sigma)


@dataclass(frozen=True)
class Song:
    """beta = sigma_dot / sigma: the reverse SDE of Song et al. (2021, arXiv 2011.13456)."""

    kind: Literal["song"] = "song"
    revision: ClassVar[int] = 1

    def decay(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        return (sigma / sigma_next).log()


@dataclass(frozen=True)
class Constant:
    """beta = factor sigma_dot / sigma: 0 is the probability flow, 1 is `song` (Karras et al. 2022, Eq. 6).

    The factor is tau^2 of SA-Solver and eta of DPM++ 2M SDE.
    """

    kind: Literal["constant"] = "constant"
    factor: float = 1.0
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check_factor(self.factor)

    def decay(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        return self.factor * (sigma / sigma_next).log()


@dataclass(frozen=True)
class Window:
    """beta = factor sigma_dot / sigma within [sigma_lo, sigma_hi], and 0 elsewhere (Karras et al. 2022, Eq. 6)."""

    kind: Literal["window"] = "window"
    factor: float = 1.0
    sigma_lo: float = 0.05
    sigma_hi: float = 1.0
    revision: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check_factor(self.factor)
        if not 0 <= self.sigma_lo < self.sigma_hi:
            raise ValueError(
                f"sigma_lo: must be 0 or more and less than sigma_hi (got {self.sigma_lo} and {self.sigma_hi})"
            )

    def decay(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        upper, lower = (level.clamp(self.sigma_lo, self.sigma_hi) for level in (sigma, sigma_next))
        return self.factor * (upper / lower).log()


@dataclass(frozen=True)
class ExtendedReverse:
    """ER-SDE 5: beta for which sigma exp(decay) grows as phi(sigma) = sigma (exp(sigma^0.3) + 10).

    The noise scale function that Cui et al. recommend (2023, arXiv 2309.06169); beta = phi_dot/phi - sigma_dot/sigma.
    Little noise at small sigma, more than `song` at large.
    """

    kind: Literal["er_sde_5"] = "er_sde_5"
    revision: ClassVar[int] = 1

    def decay(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        upper, lower = ((0.3 * level.log()).exp().exp() + 10 for level in (sigma, sigma_next))
        return (upper / lower).log()


def _check_factor(factor: float) -> None:
    if not 0 <= factor < math.inf:
        raise ValueError(f"factor: must be 0 or more (got {factor})")


Beta = Song | Zero | Constant | Window | ExtendedReverse
