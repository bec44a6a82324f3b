"""What stochastic solvers share: the exact linear part of the SDE, and the past of multistep ones.

In z = x / s with lambda = -ln sigma for time, the SDE of the paper (Eq. 6) is, for beta = rho sigma_dot / sigma,

    dz = -(1 + rho) (z - D(z; sigma)) dlambda + sqrt(2 rho) sigma dW

whatever the schedule and the scaling. Its linear part has an exact solution: over a step with decay R, the integral of
rho dlambda, the state shrinks towards D by (sigma_next / sigma) exp(-R), and noise of variance
sigma_next^2 (1 - exp(-2 R)) is added. So no step is too long for the noise, and the marginals stay right where D does.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.diffusion.preconditioning import per_sample
from pipeline.diffusion.seeds import Noise
from pipeline.diffusion.solvers.base import Memory
from pipeline.diffusion.solvers.plain import Plain

MIN_SPACING = 0.1


def kept(sigma: Tensor, sigma_next: Tensor, decay: Tensor) -> Tensor:
    """The factor by which a step shrinks the state towards the denoised image, of shape (N,)."""
    return sigma_next / sigma * (-decay).exp()


def added(sigma: Tensor, sigma_next: Tensor, decay: Tensor, noise: Noise, s_noise: float = 1.0) -> Tensor | float:
    """The new noise of a step, of the state's shape; 0 where no sample gets any."""
    if not bool((decay > 0).any()):
        return 0.0
    epsilon = noise.between(sigma, sigma_next)
    deviation = s_noise * sigma_next * (-(-2 * decay).expm1()).sqrt()
    return per_sample(deviation, epsilon) * epsilon


def renoise(
    z: Tensor, denoised: Tensor, sigma: Tensor, sigma_next: Tensor, decay: Tensor, noise: Noise, s_noise: float = 1.0
) -> Tensor:
    """The exact solution of the SDE over a step on which the denoiser says `denoised`."""
    shrunk = per_sample(kept(sigma, sigma_next, decay), z) * (z - denoised)
    return denoised + shrunk + added(sigma, sigma_next, decay, noise, s_noise)


def ancestral_decay(sigma: Tensor, sigma_next: Tensor, eta: float) -> Tensor:
    """The decay for which new noise has the variance eta^2 sigma_next^2 (1 - sigma_next^2 / sigma^2).

    That is sigma_t(eta)^2 of DDIM (Song et al. 2020, arXiv 2010.02502, Eq. 16) in the plain coordinates.
    """
    return -0.5 * (eta**2 * ((sigma_next / sigma) ** 2 - 1)).log1p()


class Evaluation(NamedTuple):
    """An answer of the denoiser: D of the state's shape; its level and which samples have it, of shape (N,)."""

    denoised: Tensor
    sigma: Tensor
    known: Tensor


def recall(memory: Memory, count: int, denoised: Tensor, move: Plain) -> list[Evaluation]:
    """The last `count` evaluations, latest first, as seen from the beginning of a step.

    A sample lacks one that it never made (or has climbed since), or that lies not above the one after it by a tenth of
    the step in ln sigma: nothing is extrapolated from there, which churn could bring about. The level of one that it
    lacks is a stand-in that divides nothing by zero.
    """
    found, latest, known = [], move.sigma, torch.ones_like(move.sigma, dtype=torch.bool)
    rise = (MIN_SPACING * move.h).exp()
    memory = memory or (torch.zeros_like(denoised), torch.zeros_like(latest)) * count
    for old, level in zip(memory[::2], memory[1::2], strict=True):
        known = known & (level > rise * latest)
        latest = torch.where(known, level, math.e * latest)
        found.append(Evaluation(old, latest, known))
    return found


def remember(memory: Memory, count: int, denoised: Tensor, sigma: Tensor) -> Memory:
    """The memory with this evaluation first, and `count` in all."""
    memory = memory or (torch.zeros_like(denoised), torch.zeros_like(sigma)) * count
    return (denoised, sigma, *memory[: 2 * count - 2])


def weighted(factor: Tensor, item: Tensor, known: Tensor) -> Tensor:
    """factor * item, and 0 for the samples that do not have the item."""
    return per_sample(torch.where(known, factor, torch.zeros_like(factor)), item) * item
