"""The probability flow, for any schedule and scaling: all that a solver may ask (Karras et al. 2022, Eq. 4).

dx/dt = (s_dot/s + sigma_dot/sigma) x - (sigma_dot s / sigma) D(x/s; sigma)
"""

import math
from copy import copy

import torch
from torch import Tensor

from pipeline.diffusion.guidance import Denoise, Guidance
from pipeline.diffusion.preconditioning import per_sample
from pipeline.diffusion.schedules import Linear, Scaling, Schedule, Unscaled


class Flow:
    """The flow of one batch of samples. It counts, sample by sample, how often the networks were asked.

    x is float64 of shape (N, C, H, W), t and sigma are float64 of shape (N,) on the CPU: every sample has its own time.

    Args:
        denoise: the network's denoiser.
        schedule: sigma(t).
        scaling: s(t).
        guidance: what is made of the denoiser.
        labels: int64 of shape (N,), or None.
        count: of the evaluations, int64 of shape (N,), added to in place.
        analytic_from: from this noise level up the denoiser is not asked but given in closed form, see `_linear`.
        guide: the second network's denoiser, for a guidance that needs one.
    """

    def __init__(
        self, denoise: Denoise, schedule: Schedule, scaling: Scaling, guidance: Guidance, labels: Tensor | None,
        count: Tensor, analytic_from: float = math.inf, guide: Denoise | None = None,
    ) -> None:  # fmt: skip
        self._denoise = denoise
        self._schedule = schedule
        self._scaling = scaling
        self._guidance = guidance
        self._guide = guide
        self._labels = labels
        self._count = count
        self._analytic_from = analytic_from
        self._index: Tensor | None = None  # which samples of the batch these are; None is all, in their order

    def sigma(self, t: Tensor) -> Tensor:
        return self._schedule.sigma(t)

    def t(self, sigma: Tensor) -> Tensor:
        """The time at which the noise level is sigma."""
        return self._schedule.sigma_inv(sigma)

    def s(self, t: Tensor) -> Tensor:
        return self._scaling.s(self._schedule.sigma(t))

    def denoised(self, x: Tensor, t: Tensor) -> Tensor:
        """D(x/s; sigma) at time t, without scaling, of x's shape. Counted."""
        sigma = self._schedule.sigma(t)
        plain = x / per_sample(self._scaling.s(sigma), x)
        if self._analytic_from == math.inf:
            return self._ask(plain, sigma, None)
        asked = sigma < self._analytic_from
        if not bool(asked.any()):
            return _linear(plain, sigma)
        return torch.where(per_sample(asked, x), self._ask(plain, sigma, asked), _linear(plain, sigma))

    def _ask(self, x: Tensor, sigma: Tensor, asked: Tensor | None) -> Tensor:
        """The guided denoiser. The networks always see the whole batch, each sample in its place: a compiled network
        meets one shape, and a sample's bits do not depend on how many others are still on their way."""
        index = self._index
        if index is not None:
            x, sigma = _spread(x, index, len(self._count)), _spread(sigma, index, len(self._count))
        guided = self._guidance.denoise(self._denoise, x, sigma, self._labels, self._guide)
        if index is None:
            self._count.add_(guided.evaluations if asked is None else guided.evaluations * asked)
            return guided.denoised
        evaluations = guided.evaluations[index]
        self._count.index_add_(0, index, evaluations if asked is None else evaluations * asked)
        return guided.denoised[index]

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """dx/dt at time t, of x's shape. Counted as one evaluation of the denoiser."""
        return self.slope(x, t, self.denoised(x, t))

    def slope(self, x: Tensor, t: Tensor, denoised: Tensor) -> Tensor:
        """dx/dt where the denoiser's answer is known already."""
        sigma, sigma_dot = self._schedule.sigma(t), self._schedule.sigma_dot(t)
        s, s_dot = self._scaling.s(sigma), self._scaling.ds_dsigma(sigma) * sigma_dot
        of_x, of_denoised = sigma_dot / sigma + s_dot / s, sigma_dot * s / sigma
        return per_sample(of_x, x) * x - per_sample(of_denoised, x) * denoised

    def plain(self) -> "Flow":
        """The same flow without scaling and with sigma for time: where data, noise and denoiser add up."""
        flow = copy(self)
        flow._schedule, flow._scaling = Linear(), Unscaled()
        return flow

    def select(self, index: Tensor) -> "Flow":
        """The flow of some of the samples; the count stays common."""
        flow = copy(self)
        flow._index = index if self._index is None else self._index[index]
        return flow


def _spread(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Values in their places of a whole batch. The first one stands in for the others: some value that is allowed."""
    whole = values[:1].expand(size, *values.shape[1:]).clone()
    whole[index] = values
    return whole


def _linear(x: Tensor, sigma: Tensor) -> Tensor:
    """The denoiser of which the noise is x / sqrt(1 + sigma^2): D = x - sigma x / sqrt(1 + sigma^2).

    At the highest noise levels x is all but pure noise, which tells its direction without a network: the "analytical
    first step" of Dockhorn et al. 2022 (GENIE, arXiv 2210.05475), for data of variance 1.
    """
    root = (1 + sigma**2).sqrt()
    return x / per_sample(root * (root + sigma), x)  # 1 - sigma / root, without the cancellation
