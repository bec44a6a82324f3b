"""Guidance: how the denoiser that the sampler follows is made of what the networks say, and what that costs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol

from torch import Tensor

Denoise = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # D(x, sigma, labels)


class Guided(NamedTuple):
    """A denoised batch and what it cost."""

    denoised: Tensor
    evaluations: Tensor  # network evaluations a sample, int64 of shape (N,)


class GuidanceShape(Protocol):
    def denoise(self, denoise: Denoise, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Guided: ...


@dataclass(frozen=True)
class Unguided:
    """The network's own denoiser: one evaluation."""

    kind: Literal["none"] = "none"
    revision: ClassVar[int] = 1

    def denoise(self, denoise: Denoise, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Guided:
        return Guided(denoise(x, sigma, labels), sigma.new_ones(sigma.shape).long())


Guidance = Unguided
