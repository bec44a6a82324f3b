"""What multistep solvers share: the memory of earlier steps, and polynomials through what is remembered.

A polynomial in Newton's form is a sum over divided differences, f[u_0] + f[u_0, u_1] (u - u_0) + ..., and one of lower
degree leaves the last ones out. So a sample that remembers less than others gets zeros for their weights, and samples
with a long past, a short one and none go through the same arithmetic.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.diffusion.preconditioning import per_sample
from pipeline.diffusion.solvers.base import Memory

SAME_LEVEL = 1e-9  # relative; a level that went through a schedule and back is off by rounding


@dataclass(frozen=True)
class Past:
    """What was found at earlier noise levels of the same trajectory, the newest first.

    Args:
        values: each of the state's shape.
        sigmas: each of shape (N,); 0 where a sample has no such past.
    """

    values: tuple[Tensor, ...]
    sigmas: tuple[Tensor, ...]

    def length(self, most: int) -> Tensor:
        """How many of the values each sample has, and no more than `most`: int64 of shape (N,)."""
        return torch.stack([sigma > 0 for sigma in self.sigmas]).sum(dim=0).clamp(max=most)

    def push(self, value: Tensor, sigma: Tensor, sigma_next: Tensor) -> Memory:
        """The memory after a step from sigma to sigma_next that found `value`: the oldest is forgotten."""
        depth = len(self.values)
        return (*(value, *self.values)[:depth], *(sigma, *self.sigmas)[:depth], sigma_next)


def recall(memory: Memory, x: Tensor, sigma: Tensor, depth: int) -> Past:
    """What a memory knows of the way to sigma; a memory is empty at the first step.

    A sample whose last step did not arrive at sigma has no past: noise was added to it (churn), and what came before
    belongs to another trajectory, with other noise. A polynomial through both gains no order, as new noise changes the
    slope by as much as the step does, and one of high degree grows without bound.

    Args:
        depth: how many values are kept, 1 or more.
    """
    if not memory:
        return Past((torch.zeros_like(x),) * depth, (torch.zeros_like(sigma),) * depth)
    goes_on = (memory[2 * depth] - sigma).abs() <= SAME_LEVEL * sigma
    return Past(memory[:depth], tuple(torch.where(goes_on, item, 0.0) for item in memory[depth : 2 * depth]))


def levels(sigma: Tensor, past: Sequence[Tensor], length: Tensor) -> list[Tensor]:
    """sigma and the past levels; in place of those beyond a sample's length invented ones, so that all are distinct."""
    found = [sigma]
    for number, earlier in enumerate(past):
        found.append(torch.where(length > number, earlier, 3 * found[-1]))
    return found


def differences(values: Sequence[Tensor], nodes: Sequence[Tensor]) -> list[Tensor]:
    """f[u_0], f[u_0, u_1], f[u_0, u_1, u_2], ..., each of the values' shape, for nodes of shape (N,)."""
    column, found = list(values), [values[0]]
    for order in range(1, len(values)):
        spans = [per_sample(nodes[i + order] - nodes[i], values[0]) for i in range(len(column) - 1)]
        column = [(column[i + 1] - column[i]) / span for i, span in enumerate(spans)]
        found.append(column[0])
    return found


def newton_weights(moments: Sequence[Tensor], nodes: Sequence[Tensor]) -> list[Tensor]:
    """What an integral makes of 1, u, u (u - u_1), u (u - u_1) (u - u_2), if it makes `moments` of 1, u, u^2, u^3.

    Args:
        moments: as many as weights are wanted, 4 at most, each of shape (N,).
        nodes: u_0 = 0, u_1, ..., each of shape (N,).
    """
    weights = list(moments[:2])
    if len(moments) > 2:
        weights.append(moments[2] - nodes[1] * moments[1])
    if len(moments) > 3:
        both, product = nodes[1] + nodes[2], nodes[1] * nodes[2]
        weights.append(moments[3] - both * moments[2] + product * moments[1])
    return weights


def exponential_moments(h: Tensor, count: int) -> list[Tensor]:
    """The integrals of e^(u - h) u^k over u from 0 to h, for k below `count`, each of h's shape.

    They carry the denoiser's answer over a step: x_next = e^(-h) x + the integral of e^(u - h) D, u being ln(1 / sigma)
    from the step's start on (Lu et al. 2022, arXiv 2211.01095, section 4, in plain coordinates).
    """
    moments, power = [-torch.expm1(-h)], torch.ones_like(h)
    for k in range(1, count):
        power = power * h
        moments.append(power - k * moments[-1])
    return moments


def weighted(weights: Sequence[Tensor], terms: Sequence[Tensor], length: Tensor) -> Tensor:
    """The sum of weights times divided differences, of which a sample takes the first and `length` more."""
    total = per_sample(weights[0], terms[0]) * terms[0]
    for number in range(1, len(terms)):
        weight = torch.where(length >= number, weights[number], 0.0)
        total = total + per_sample(weight, terms[number]) * terms[number]
    return total
