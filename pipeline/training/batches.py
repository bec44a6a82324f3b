"""What a step learns from: images, noise and noise levels, all a function of the seed and the position in the stream.

Positions count images since the start of the training. So a step's batch is the same for any number of workers and any
size of microbatch, and after a restart it needs nothing but the position.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.dataset import Dataset
from pipeline.data.order import image_index
from pipeline.diffusion.seeds import DROPOUT, LABEL_DROPOUT, TRAINING, TRAINING_NOISE, draw, normal, uniform
from pipeline.training.augmentation import draw_augmentation
from pipeline.training.settings import TrainingSettings


class Batch(NamedTuple):
    """Images of consecutive positions, on the device of the training."""

    position: int  # of the first image
    y: Tensor  # clean images in [-1, 1], float32 of shape (N, C, H, W)
    n: Tensor  # noise of unit variance, float32 of y's shape
    u: Tensor  # quantiles of the noise levels, float64 of shape (N,)
    sigma: Tensor  # noise levels, float64 of shape (N,)
    labels: Tensor | None  # int64 of shape (N,), -1 where it was dropped; or None for data without classes
    augment: Tensor | None = None  # what was done to the images, for the network, float32 of shape (N, 9)


class Batches:
    """Makes batches.

    Args:
        dataset: the images.
        settings: of the training: its seed, noise distribution, strata, flips, augmentation and label dropout.
        device: where the batches go; their noise is made there.
    """

    def __init__(self, dataset: Dataset, settings: TrainingSettings, device: torch.device) -> None:
        self._dataset = dataset
        self._settings = settings
        self._device = device
        self._prepared: tuple[tuple[int, int], Batch] | None = None

    def spans(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The positions [start, stop) cut into microbatches."""
        size = self._settings.microbatch or max(stop - start, 1)
        return [(first, min(first + size, stop)) for first in range(start, stop, size)]

    def prepare(self, start: int, stop: int) -> None:
        """Makes a batch that will be asked for soon, while a GPU is at work. On a CPU there is nothing to be gained."""
        if self._device.type == "cuda":
            self._prepared = (start, stop), self.make(start, stop)

    def make(self, start: int, stop: int) -> Batch:
        """The images at the positions [start, stop)."""
        if self._prepared is not None and self._prepared[0] == (start, stop):
            batch, self._prepared = self._prepared[1], None
            return batch
        position = torch.arange(start, stop, device=self._device)
        key = torch.full_like(position, self._settings.seed)
        u, flip = uniform(key, draw(TRAINING, 0) + position, 2).unbind(1)
        y, labels = self._images(start, stop)
        if self._settings.x_flip:
            y = torch.where((flip < 0.5)[:, None, None, None], y.flip(3), y)
        if self._settings.label_dropout and labels is not None:
            dropped = uniform(key, draw(LABEL_DROPOUT, 0) + position)[:, 0] < self._settings.label_dropout
            labels = labels.masked_fill(dropped, -1)
        augment = None
        if self._settings.augment:
            augmentation = draw_augmentation(self._settings.seed, position, self._settings.augment)
            y, augment = augmentation.apply(y), augmentation.condition
        n = normal(key, draw(TRAINING_NOISE, 0) + position, y.shape[1:]).to(torch.float32)
        u = self._stratify(position, u)
        return Batch(start, y, n, u, self._settings.noise.sigma(u), labels, augment)

    def _stratify(self, position: Tensor, u: Tensor) -> Tensor:
        """The quantiles of a step, each in the stratum of its place in the step, whichever worker makes it."""
        size = self._settings.batch_size
        return (position % size + u) / size if self._settings.stratified else u

    def _images(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        chosen = image_index(self._settings.seed, np.arange(start, stop, dtype=np.int64), len(self._dataset))
        y = self._moved(self._dataset.images(chosen)).to(torch.float32) / 127.5 - 1
        if not self._dataset.info.num_classes:
            return y, None
        return y, self._moved(self._dataset.labels(chosen))

    def _moved(self, values: NDArray[Any]) -> Tensor:
        """On the device. From pinned memory, for otherwise a GPU's queue must be empty first."""
        there = torch.from_numpy(values)
        return there.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else there


def seed_generators(seed: int, position: int) -> None:
    """Seeds torch's generators for the microbatch that begins at a position.

    Dropout draws from them, and so they have no state that a checkpoint would have to hold. Masks differ between
    numbers of workers, where microbatches begin elsewhere.
    """
    high, low = (uniform(torch.tensor([seed]), draw(DROPOUT, position), 2)[0] * 2**31).long().tolist()
    torch.manual_seed((high << 31) | low)
