"""The loss of denoising, and its mean by noise level."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.noise import TrainingNoise, Weighting
from pipeline.diffusion.preconditioning import per_sample
from pipeline.training.batches import Batch
from pipeline.training.place import Place


def sample_losses(denoiser: Denoiser, weighting: Weighting, batch: Batch) -> Tensor:
    """lambda(sigma) ||D(y + sigma n; sigma) - y||^2 of each image, summed over its pixels (Karras et al. 2022, Eq. 2).

    Returns:
        float32 of shape (N,).
    """
    noisy = batch.y + per_sample(batch.sigma, batch.y).to(batch.y.dtype) * batch.n
    error = denoiser(noisy, batch.sigma, batch.labels, batch.augment) - batch.y
    weight = weighting.weight(batch.sigma, denoiser.sigma_data).to(error.dtype)
    losses: Tensor = weight * error.square().flatten(1).sum(1)
    return losses


@dataclass(frozen=True)
class LossSummary:
    """Losses of the images since the last summary, of all workers.

    Args:
        mean: over the images whose loss is finite; NaN where there are none.
        by_noise: the same in bins evenly spaced in the quantile of p_train.
        num_not_finite: images whose loss is NaN or infinite.
    """

    mean: float
    by_noise: tuple[float, ...]
    num_not_finite: int


class LossMeter:
    """Adds losses up on the device, and asks the other workers only when a summary is wanted."""

    def __init__(self, num_bins: int, place: Place) -> None:
        self._place = place
        self._num_bins = num_bins
        # Rows: sum and count of the finite losses by bin, then the count of the others.
        self._totals = torch.zeros(2 * num_bins + 1, dtype=torch.float64, device=place.device)

    def add(self, u: Tensor, losses: Tensor) -> None:
        """Losses of shape (N,) at the quantiles u of p_train, of shape (N,)."""
        losses = losses.detach().to(torch.float64)
        finite = losses.isfinite()
        bins = (u * self._num_bins).long().clamp(max=self._num_bins - 1)
        self._totals.index_add_(0, bins, torch.where(finite, losses, 0.0))
        self._totals.index_add_(0, self._num_bins + bins, finite.to(torch.float64))
        self._totals[-1] += (~finite).sum()

    def any_not_finite(self) -> bool:
        """Whether any worker has met a loss that is not finite; all must ask."""
        return bool(self._place.sum(self._totals[-1:].clone()) > 0)

    def collect(self) -> LossSummary:
        """The summary of all workers, who must all ask; begins anew."""
        totals = self._place.sum(self._totals).tolist()
        self._totals = torch.zeros_like(self._totals)
        sums, counts = totals[: self._num_bins], totals[self._num_bins : -1]
        by_noise = tuple(_mean(total, count) for total, count in zip(sums, counts, strict=True))
        return LossSummary(_mean(sum(sums), sum(counts)), by_noise, int(totals[-1]))


def bin_names(noise: TrainingNoise, num_bins: int) -> list[str]:
    """The median noise level of each bin, as text."""
    middle = (torch.arange(num_bins, dtype=torch.float64) + 0.5) / num_bins
    return [f"{sigma:.3g}" for sigma in noise.sigma(middle).tolist()]


def _mean(total: float, count: float) -> float:
    return total / count if count else float("nan")
