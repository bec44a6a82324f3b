import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.diffusion.denoiser import Denoiser
from pipeline.diffusion.noise import EDMWeighting, IDDPMLevels, InverseVariance, LogNormal, LogUniform, VPUniformTime
from pipeline.diffusion.preconditioning import EDMPreconditioning
from pipeline.training.batches import Batch
from pipeline.training.loss import LossMeter, bin_names, sample_losses
from pipeline.training.place import Place


class _Half(nn.Module):
    """F(x) = x / 2, whatever the noise."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        return self.weight * x


@pytest.mark.parametrize("weighting", [EDMWeighting(), InverseVariance()])
def test_the_loss_is_the_weighted_squared_error_summed_over_pixels(weighting: EDMWeighting | InverseVariance) -> None:
    generator = torch.Generator().manual_seed(1)
    y, n = torch.randn(2, 3, 1, 2, 2, generator=generator)
    sigma = torch.tensor([0.1, 1.0, 7.0], dtype=torch.float64)
    batch = Batch(0, y, n, sigma, sigma, None)
    found = sample_losses(Denoiser(_Half(), EDMPreconditioning(), 0.5), weighting, batch)
    for index, s in enumerate(sigma.tolist()):
        total, noisy = s**2 + 0.25, (y[index] + s * n[index]).double().numpy()
        denoised = 0.25 / total * noisy + s * 0.5 / math.sqrt(total) * (0.5 * noisy / math.sqrt(total))
        weight = total / (s * 0.5) ** 2 if isinstance(weighting, EDMWeighting) else 1 / s**2
        expected = weight * ((denoised - y[index].double().numpy()) ** 2).sum()
        assert found[index].item() == pytest.approx(expected, rel=1e-5)


def test_the_meter_means_by_quantile_and_counts_what_is_not_finite() -> None:
    meter = LossMeter(2, Place())
    meter.add(torch.tensor([0.1, 0.4, 0.6], dtype=torch.float64), torch.tensor([1.0, 3.0, math.nan]))
    meter.add(torch.tensor([0.9999999], dtype=torch.float64), torch.tensor([math.inf]))
    assert meter.any_not_finite()
    summary = meter.collect()
    assert summary.mean == 2
    assert summary.by_noise[0] == 2
    assert math.isnan(summary.by_noise[1])
    assert summary.num_not_finite == 2
    assert not meter.any_not_finite()
    assert meter.collect().num_not_finite == 0


@pytest.mark.parametrize("noise", [LogNormal(), LogUniform(), VPUniformTime(), IDDPMLevels()])
def test_bins_are_named_by_their_median_noise_level_and_hold_equal_shares(noise: LogNormal) -> None:
    names = bin_names(noise, 4)
    assert len(set(names)) == 4
    drawn = noise.sigma(torch.from_numpy(np.random.default_rng(0).random(40_000)))
    for name, quantile in zip(names, (0.125, 0.375, 0.625, 0.875), strict=True):
        below = (drawn < float(name)).double().mean().item()
        assert min(abs(below - quantile), abs(1 - below - quantile)) < 0.02  # sigma falls with u in some columns
