"""The first two moments of features: what a Frechet distance needs to know of a set of images.

Sums are additive, so moments of shards can be merged. float64 sums are not associative to the last bit: who wants
equal bytes merges in a fixed order.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pipeline.errors import DataError

Float64 = NDArray[np.float64]
_BLOCK = 256  # rows of the outer product that are computed at once


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A Gaussian fitted to features.

    Args:
        mean: shape (d,), float64.
        covariance: shape (d, d), float64, symmetric.
        count: how many images it was fitted to, or None where that is not known.

    Raises:
        ValueError: the shapes do not fit each other, or a number is not finite.
    """

    mean: Float64
    covariance: Float64
    count: int | None = None

    def __post_init__(self) -> None:
        d = self.mean.size
        if self.mean.shape != (d,) or d == 0 or self.covariance.shape != (d, d):
            raise ValueError(f"covariance: does not fit the mean (shapes {self.covariance.shape}, {self.mean.shape})")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.covariance).all()):
            raise ValueError("covariance: mean and covariance must be finite")

    @property
    def num_features(self) -> int:
        return int(self.mean.size)

    @property
    def of_too_few(self) -> bool:
        """Whether it is of no more images than features, or is singular and nobody knows of how many it is."""
        return self.cholesky is None if self.count is None else self.count <= self.num_features

    @cached_property
    def cholesky(self) -> Float64 | None:
        """The lower triangle L with L L^T = covariance, or None where the covariance is singular to rounding. It is
        kept, since a reference is asked for it at every distance."""
        d = self.num_features
        if self.count is not None and self.count <= d:
            return None
        try:
            lower: Float64 = np.linalg.cholesky(self.covariance).astype(np.float64, copy=False)
        except np.linalg.LinAlgError:
            return None
        pivots = np.square(np.diagonal(lower))
        return lower if pivots.min() > rounding(d) * pivots.max() else None


def rounding(d: int) -> float:
    """What is noise in the spectrum of a matrix of d rows, as a share of the largest eigenvalue."""
    return d * float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over images, to which more images can be added.

    Args:
        count: the number of images.
        sum: the sum of their features, shape (d,), float64.
        outer: the sum of the outer products of their features, shape (d, d), float64.

    Raises:
        ValueError: the shapes do not fit each other.
    """

    count: int
    sum: Float64
    outer: Float64

    def __post_init__(self) -> None:
        d = self.sum.size
        if self.count < 0 or self.sum.shape != (d,) or self.outer.shape != (d, d):
            raise ValueError(f"moments: {self.count} images, sum {self.sum.shape} and outer {self.outer.shape}")

    @classmethod
    def of(cls, features: torch.Tensor | NDArray[np.floating]) -> Self:
        """The moments of features, shape (N, d); the products are taken in float64 where the features lie.

        Raises:
            ValueError: the features are not a matrix of numbers with a fraction.
        """
        x = features if isinstance(features, torch.Tensor) else torch.tensor(features)
        if x.ndim != 2 or not x.is_floating_point():
            raise ValueError(f"features: must be a float matrix (got {x.dtype} of shape {tuple(x.shape)})")
        x = x.double()
        return cls(x.shape[0], x.sum(dim=0).cpu().numpy(), _outer(x).cpu().numpy())

    def __add__(self, other: Self) -> Self:
        if self.sum.shape != other.sum.shape:
            raise ValueError(f"moments: of {self.sum.size} and of {other.sum.size} features cannot be added")
        return type(self)(self.count + other.count, self.sum + other.sum, self.outer + other.outer)

    def gaussian(self) -> Gaussian:
        """Mean and unbiased covariance.

        Raises:
            ValueError: there are fewer than two images.
        """
        if self.count < 2:
            raise ValueError(f"moments: a covariance needs at least 2 images (got {self.count})")
        mean = self.sum / self.count
        covariance = (self.outer - self.count * np.outer(mean, mean)) / (self.count - 1)
        return Gaussian(mean, (covariance + covariance.T) / 2, self.count)

    def to_bytes(self) -> bytes:
        """The moments as a safetensors file."""
        count = np.array([self.count], dtype=np.int64)
        data: bytes = save({"count": count, "sum": self.sum, "outer": self.outer})
        return data

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "moments") -> Self:
        """The inverse of `to_bytes`.

        Raises:
            DataError: the bytes are not moments; `where` says which.
        """
        try:
            tensors = load(data)
            sums, outer = tensors["sum"], tensors["outer"]
            if sums.dtype != np.float64 or outer.dtype != np.float64:
                raise ValueError("not in float64")
            return cls(int(tensors["count"].item()), sums, outer)
        except (SafetensorError, KeyError, ValueError) as error:
            raise DataError(where, f"does not hold the moments of features ({error})") from error


def _outer(x: torch.Tensor) -> torch.Tensor:
    """x^T x, shape (d, d), of which nothing below the diagonal's blocks is computed: the product is symmetric."""
    d = x.shape[1]
    found = x.new_empty(d, d)
    for first in range(0, d, _BLOCK):
        rows = slice(first, first + _BLOCK)
        torch.mm(x[:, rows].T, x[:, first:], out=found[rows, first:])
        found[first + _BLOCK :, rows] = found[rows, first + _BLOCK :].T
    return found
