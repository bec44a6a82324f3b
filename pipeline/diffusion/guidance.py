"""Guidance: how the denoiser that the sampler follows is made of what the networks say, and what that costs.

    D = D_g + w (D - D_g)

leads away from a denoiser D_g that is worse at the same task: one that does not know the label (classifier-free), or
one that was trained less (autoguidance).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from pipeline.diffusion.preconditioning import per_sample

Denoise = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # D(x, sigma, labels)

# Levels this near to an end of the interval are at it: schedules give sigma back to a few rounding errors.
_SAME_LEVEL = 1e-9


class Guided(NamedTuple):
    """A denoised batch and what it cost."""

    denoised: Tensor
    evaluations: Tensor  # network evaluations a sample, int64 of shape (N,)


class GuidanceShape(Protocol):
    needs_guide: ClassVar[bool]  # whether it asks a second network

    def denoise(
        self, denoise: Denoise, x: Tensor, sigma: Tensor, labels: Tensor | None, guide: Denoise | None = None
    ) -> Guided:
        """The denoiser to follow.

        Args:
            denoise: the network's.
            x: noisy images without scaling, of shape (N, C, H, W).
            sigma: noise levels, of shape (N,).
            labels: int64 of shape (N,), -1 for none; or None.
            guide: the second network's, where `needs_guide`.
        """
        ...


@dataclass(frozen=True)
class Unguided:
    """The network's own denoiser: one evaluation."""

    kind: Literal["none"] = "none"
    revision: ClassVar[int] = 1
    needs_guide: ClassVar[bool] = False

    def denoise(
        self, denoise: Denoise, x: Tensor, sigma: Tensor, labels: Tensor | None, guide: Denoise | None = None
    ) -> Guided:
        return Guided(denoise(x, sigma, labels), sigma.new_ones(sigma.shape).long())


@dataclass(frozen=True)
class ClassifierFree:
    """Away from the same network without the label, by `weight`, where sigma_lo < sigma <= sigma_hi; 1 is unguided.

    Ho and Salimans 2022, arXiv 2207.12598, whose w is `weight` - 1; the interval: Kynkaanniemi et al. 2024, arXiv
    2404.07724. The network must have been trained with label dropout. A sample without a label has nothing to be led
    away from, since both denoisers are one: it stays unguided, at one evaluation.
    """

    kind: Literal["cfg"] = "cfg"
    weight: float = 2.0
    sigma_lo: float = 0.0
    sigma_hi: float = math.inf
    revision: ClassVar[int] = 1
    needs_guide: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check(self.weight, self.sigma_lo, self.sigma_hi)

    def denoise(
        self, denoise: Denoise, x: Tensor, sigma: Tensor, labels: Tensor | None, guide: Denoise | None = None
    ) -> Guided:
        no_label = torch.full_like(sigma, -1, dtype=torch.int64)
        labelled = (no_label if labels is None else labels) >= 0
        led = labelled & _within(self, sigma)
        return _lead(denoise(x, sigma, labels), lambda: denoise(x, sigma, no_label), self.weight, led)


@dataclass(frozen=True)
class Autoguidance:
    """Away from a worse network with the same label, by `weight`, where sigma_lo < sigma <= sigma_hi; 1 is unguided.

    Karras et al. 2024, arXiv 2406.02507: the guide is a second checkpoint, smaller or less trained, or averaged over
    another length. A guide without classes makes it guidance by an unconditional network.
    """

    kind: Literal["autoguidance"] = "autoguidance"
    weight: float = 2.0
    sigma_lo: float = 0.0
    sigma_hi: float = math.inf
    revision: ClassVar[int] = 1
    needs_guide: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check(self.weight, self.sigma_lo, self.sigma_hi)

    def denoise(
        self, denoise: Denoise, x: Tensor, sigma: Tensor, labels: Tensor | None, guide: Denoise | None = None
    ) -> Guided:
        """Raises:
        ValueError: there is no guide.
        """
        ask = check_guide(self, guide)
        return _lead(denoise(x, sigma, labels), lambda: ask(x, sigma, labels), self.weight, _within(self, sigma))


Guidance = Unguided | ClassifierFree | Autoguidance


def check_guide(guidance: Guidance, guide: Denoise | None) -> Denoise:
    """The guide of a guidance that needs one.

    Raises:
        ValueError: there is none.
    """
    if guide is None:
        raise ValueError(f"guide: {guidance.kind} needs a second network, its guide, and there is none")
    return guide


def _check(weight: float, sigma_lo: float, sigma_hi: float) -> None:
    if not 0 <= weight < math.inf:
        raise ValueError(f"weight: must be 0 or more and finite (got {weight})")
    if not 0 <= sigma_lo < sigma_hi:
        raise ValueError(f"sigma_lo: must be 0 or more and less than sigma_hi (got {sigma_lo} and {sigma_hi})")


def _within(part: ClassifierFree | Autoguidance, sigma: Tensor) -> Tensor:
    """Which samples are guided, bool of shape (N,): none at weight 1, which changes nothing."""
    if part.weight == 1:
        return torch.zeros_like(sigma, dtype=torch.bool)
    grain = 1 + _SAME_LEVEL
    return (sigma > part.sigma_lo * grain) & (sigma <= part.sigma_hi * grain)


def _lead(denoised: Tensor, guide: Callable[[], Tensor], weight: float, led: Tensor) -> Guided:
    """D_g + w (D - D_g) for the samples that are led; the guide is asked if there are any, and counted for them."""
    evaluations = 1 + led.long()
    if not bool(led.any()):
        return Guided(denoised, evaluations)
    of_guide = guide()
    guided = of_guide + weight * (denoised - of_guide)
    return Guided(torch.where(per_sample(led, denoised), guided, denoised), evaluations)
