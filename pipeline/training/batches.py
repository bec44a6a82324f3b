"""What a step learns from: images, noise and noise levels, all a function of the seed and the position in the stream.

Positions count images since the start of the training. So a step's batch is the same for any number of workers and any
size of microbatch, and after a restart it needs nothing but the position.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.data.dataset import Dataset
from pipeline.data.order import image_index
from pipeline.diffusion.seeds import DROPOUT, TRAINING, TRAINING_NOISE, draw, normal, uniform
from pipeline.training.settings import TrainingSettings


class Batch(NamedTuple):
    """Images of consecutive positions, on the device of the training."""

    position: int  # of the first image
    y: Tensor  # clean images in [-1, 1], float32 of shape (N, C, H, W)
    n: Tensor  # noise of unit variance, float32 of y's shape
    u: Tensor  # quantiles of the noise levels, float64 of shape (N,)
    sigma: Tensor  # noise levels, float64 of shape (N,)
    labels: Tensor | None  # int64 of shape (N,), or None for data without classes


class Batches:
    """Makes batches.

    Args:
        dataset: the images.
        settings: of the training: its seed, noise distribution, strata and flips.
        device: where the batches go; their noise is made there.
    """

    def __init__(self, dataset: Dataset, settings: TrainingSettings, device: torch.device) -> None:
        self._dataset = dataset
        self._settings = settings
        self._device = device

    def spans(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The positions [start, stop) cut into microbatches."""
        size = self._settings.microbatch or max(stop - start, 1)
        return [(first, min(first + size, stop)) for first in range(start, stop, size)]

    def make(self, start: int, stop: int) -> Batch:
        """The images at the positions [start, stop)."""
        position = torch.arange(start, stop, device=self._device)
        key = torch.full_like(position, self._settings.seed)
        u, flip = uniform(key, draw(TRAINING, 0) + position, 2).unbind(1)
        y, labels = self._images(start, stop)
        if self._settings.x_flip:
            y = torch.where((flip < 0.5)[:, None, None, None], y.flip(3), y)
        n = normal(key, draw(TRAINING_NOISE, 0) + position, y.shape[1:]).to(torch.float32)
        u = self._stratify(position, u)
        return Batch(start, y, n, u, self._settings.noise.sigma(u), labels)

    def _stratify(self, position: Tensor, u: Tensor) -> Tensor:
        """The quantiles of a step, each in the stratum of its place in the step, whichever worker makes it."""
        size = self._settings.batch_size
        return (position % size + u) / size if self._settings.stratified else u

    def _images(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        chosen = image_index(self._settings.seed, np.arange(start, stop, dtype=np.int64), len(self._dataset))
        pixels = torch.from_numpy(self._dataset.images(chosen)).to(self._device, non_blocking=True)
        y = pixels.to(torch.float32) / 127.5 - 1
        if not self._dataset.info.num_classes:
            return y, None
        return y, torch.from_numpy(self._dataset.labels(chosen)).to(self._device, non_blocking=True)


def seed_generators(seed: int, position: int) -> None:
    """Seeds torch's generators for the microbatch that begins at a position.

    Dropout draws from them, and so they have no state that a checkpoint would have to hold. Masks differ between
    numbers of workers, where microbatches begin elsewhere.
    """
    high, low = (uniform(torch.tensor([seed]), draw(DROPOUT, position), 2)[0] * 2**31).long().tolist()
    torch.manual_seed((high << 31) | low)
