"""What a data set suggests for the settings of a training and a sampler, each with its reason."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.data.dataset import Dataset
from pipeline.errors import DataError
from pipeline.metrics.scores.neighbours import blocks, squared_distances

EDM_P_MEAN, EDM_P_STD, EDM_SIGMA_DATA = -1.2, 1.2, 0.5  # Karras et al. 2022, Table 1: chosen on such data
MOST_VALUES = 100_000_000  # of the images that are compared with each other, 400 MB
MOST_IMAGES = 5000


@dataclass(frozen=True)
class Suggestion:
    """A number for a setting.

    Args:
        key: of the setting, such as `model.sigma_data`.
        value: what is suggested.
        reason: why, in a sentence.
    """

    key: str
    value: float
    reason: str


def suggestions(dataset: Dataset, most_images: int = MOST_IMAGES) -> list[Suggestion]:
    """Suggests sigma_data, P_mean, P_std and sigma_max.

    Args:
        dataset: its images, as they are trained on.
        most_images: that are compared with each other, evenly spread over the data set.

    Raises:
        DataError: it has fewer than two images, or all its pixels are equal.
    """
    std = dataset.info.std
    if len(dataset) < 2 or not std > 0:
        raise DataError(dataset.info.name, "suggests nothing: it needs two images, and pixels that differ")
    shift = math.log(std / EDM_SIGMA_DATA)
    moved = f"{EDM_P_MEAN} + ln({std:.4g} / {EDM_SIGMA_DATA})"
    images = spread_images(dataset, most_images)
    farthest = farthest_pair(images)
    return [
        Suggestion(
            "model.sigma_data", std,
            "the standard deviation of all pixels: EDM's preconditioning gives the network inputs and targets of "
            "variance 1 for it",
        ),
        Suggestion(
            "training.noise.P_mean", EDM_P_MEAN + shift,
            f"{moved}: what can be learnt at a noise level depends on sigma / sigma_data, so EDM's choice, made on "
            f"data of {EDM_SIGMA_DATA}, moves with the data's scale",
        ),
        Suggestion(
            "training.noise.P_std", EDM_P_STD,
            "EDM's choice: a width in ln(sigma), which no scale of the data changes",
        ),
        Suggestion(
            "sampler.timesteps.sigma_max", farthest,
            f"the distance of the farthest pair of {len(images):,} images: noise of this size reaches from any image "
            "to any other (Song and Ermon 2020, arXiv 2006.09011, Technique 1); EDM takes 80",
        ),
    ]  # fmt: skip


def spread_images(dataset: Dataset, most: int) -> NDArray[np.float32]:
    """At most so many images, evenly spread over the data set, in the model's range [-1, 1]: (n, C, H, W)."""
    count = min(most, len(dataset), max(2, MOST_VALUES // dataset.info.image_size))
    indices = np.arange(count, dtype=np.int64) * len(dataset) // count
    return dataset.images(indices).astype(np.float32) / np.float32(127.5) - 1


def farthest_pair(images: NDArray[np.float32]) -> float:
    """The largest Euclidean distance of two images, in blocks."""
    flat = images.reshape(len(images), -1)
    most = max(
        float(squared_distances(flat[rows], flat[columns]).max())
        for rows in blocks(len(flat))
        for columns in blocks(rows.stop)
    )
    return math.sqrt(most)
