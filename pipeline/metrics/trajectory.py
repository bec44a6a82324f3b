"""How far samples are from the converged answer of their own seeds: what a solver got wrong, and nothing else.

The error of a sample is the root mean square over its pixels of its distance to the sample that a reference solver
makes of the same seed, label and network with many steps, in the model's range of -1 to 1. A setting's RMSE is the root
of the mean of the squares. The two images are a pair, so some hundred seeds tell settings apart where a distance of
distributions needs thousands; but it knows nothing of how good the network is.

Images are kept in 8 bits, truncated, and both are. Where the true distance is well above a step of 1 / 127.5, rounding
adds its variance of a sixth of a step squared; where it is well below, most pixels are equal and the others differ by a
whole step. So what is told below `FLOOR` is not resolved.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.moments import Float64

STEP = 1 / 127.5  # of an 8-bit image, in the model's range
FLOOR = STEP / 6**0.5  # the root mean square difference of two roundings that know nothing of each other
QUANTILES = (0.1, 0.5, 0.9)
_NORMAL = 1.959963984540054  # 95 % of the normal distribution lie within


@dataclass(frozen=True)
class TrajectoryError:
    """Of one setting.

    Args:
        rmse: root of the mean of the squared errors of its samples.
        half_width: half the 95 % interval of the RMSE of infinitely many seeds (delta method); None for one sample.
        quantiles: of the errors of its samples, at `QUANTILES`.
        count: of samples.
    """

    rmse: float
    half_width: float | None
    quantiles: tuple[float, ...]
    count: int

    @classmethod
    def of(cls, errors: Float64) -> "TrajectoryError":
        """Of the errors of all samples, shape (N,)."""
        squares, count = np.square(errors), len(errors)
        rmse = float(np.sqrt(squares.mean()))
        width = None
        if count > 1:
            width = 0.0 if rmse == 0 else float(_NORMAL * squares.std(ddof=1) / np.sqrt(count) / (2 * rmse))
        quantiles = tuple(float(value) for value in np.quantile(errors, QUANTILES))
        return cls(rmse, width, quantiles, count)


def sample_errors(images: NDArray[np.uint8], converged: NDArray[np.uint8]) -> Float64:
    """The error of each sample, shape (N,), of images and their converged answers, both uint8 (N, C, H, W).

    Raises:
        ValueError: the two are not of one shape.
    """
    if images.shape != converged.shape:
        raise ValueError(f"images: must be of the shape of the converged {converged.shape} (got {images.shape})")
    found: list[float] = []
    for image, answer in zip(images, converged, strict=True):  # one by one: thousands of large images are many GB
        found.append(float(np.sqrt(np.square(image.astype(np.float64) - answer).mean())))
    return STEP * np.asarray(found, np.float64)


def quantile_names() -> Sequence[str]:
    """`p10`, `p50`, `p90`."""
    return [f"p{100 * quantile:.0f}" for quantile in QUANTILES]
