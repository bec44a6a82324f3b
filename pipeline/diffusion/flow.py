"""The probability flow, for any schedule and scaling: all that a solver may ask (Karras et al. 2022, Eq. 4).

dx/dt = (s_dot/s + sigma_dot/sigma) x - (sigma_dot s / sigma) D(x/s; sigma)
"""

import torch
from torch import Tensor

from pipeline.diffusion.guidance import Denoise, Guidance
from pipeline.diffusion.preconditioning import per_sample
from pipeline.diffusion.schedules import Linear, Scaling, Schedule, Unscaled


class Flow:
    """The flow of one batch of samples. It counts, sample by sample, how often the networks were asked.

    x is float64 of shape (N, C, H, W), t and sigma are float64 of shape (N,): every sample has its own time.
    """

    def __init__(
        self, denoise: Denoise, schedule: Schedule, scaling: Scaling, guidance: Guidance, labels: Tensor | None,
        count: Tensor, index: Tensor | None = None, guide: Denoise | None = None,
    ) -> None:  # fmt: skip
        self._denoise = denoise
        self._schedule = schedule
        self._scaling = scaling
        self._guidance = guidance
        self._guide = guide
        self._labels = labels
        self._count = count
        self._index = torch.arange(len(count), device=count.device) if index is None else index

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
        s = self._scaling.s(sigma)
        guided = self._guidance.denoise(self._denoise, x / per_sample(s, x), sigma, self._labels, self._guide)
        self._count.index_add_(0, self._index, guided.evaluations)
        return guided.denoised

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
        return Flow(
            self._denoise, Linear(), Unscaled(), self._guidance, self._labels, self._count, self._index, self._guide
        )

    def select(self, index: Tensor) -> "Flow":
        """The flow of some of the samples; the count stays common."""
        labels = None if self._labels is None else self._labels[index]
        return Flow(
            self._denoise, self._schedule, self._scaling, self._guidance, labels, self._count, self._index[index],
            self._guide,
        )  # fmt: skip
