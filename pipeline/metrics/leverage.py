"""How much of a covariance hangs on single images: what intervals and the limit of many images are made of.

With B = F F^T the covariance of the reference and y_i = F^T c_i, c_i = x_i - mu, the images enter the distance through
Tr M^(1/2), M = sum_i y_i y_i^T / (n - 1) = F^T A F. Since

    lambda^(1/2) = 1/pi int_0^inf x^(-1/2) lambda / (lambda + x) dx,

all that is asked of an image is its leverage at every ridge x,

    h_i(x) = y_i^T (M + x)^(-1) y_i / (n - 1),        sum_i h_i(x) = df(x) = Tr M (M + x)^(-1).

On a grid of ln x the trapezoid rule converges geometrically: the functions here are analytic for |Im ln x| < pi, so a
step of 1 leaves exp(-2 pi^2) = 3e-9 of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.frechet import covariance_factor
from pipeline.metrics.moments import Float64, Gaussian

STEP = 1.0  # of ln x
_BELOW, _ABOVE = 26.0, 12.0  # how far ln x goes beyond the eigenvalues: integrands fall as x^(1/2), and as x^(-3/2)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Of pairs of images (i, j), summed.

    Args:
        count: of pairs.
        root: y_i^T M^(-1/2) y_j.
        at: (y_i^T (M + x)^(-1) y_j / (n - 1) / ((1 - h_i) (1 - h_j)))^2, shape (J,).
    """

    count: int
    root: float
    at: Float64

    @classmethod
    def joined(cls, parts: "Sequence[Pairs]") -> "Pairs":
        at = np.sum([part.at for part in parts], axis=0)
        return cls(sum(part.count for part in parts), sum(part.root for part in parts), at)


@dataclass(frozen=True, eq=False)
class Leverages:
    """Of n images, at J ridges.

    Args:
        square: |c_i|^2, shape (n,).
        shift: c_i^T (mu - mu_r), shape (n,).
        root: y_i^T M^(-1/2) y_i / (n - 1), shape (n,); the sum is Tr M^(1/2).
        at: h_i(x), shape (n, J).
        slope: sum_i -x dh_i/dx / (1 - h_i)^2, shape (J,).
        strata: the class of each image, shape (n,), where every class has its share by design; else None.
        pairs: of images of one class: neighbours in their order.
    """

    square: Float64
    shift: Float64
    root: Float64
    at: Float64
    slope: Float64
    strata: NDArray[np.int64] | None = None
    pairs: "Pairs | None" = None

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Of images that came in parts, in their order."""
        square, shift, root, at = (np.concatenate([getattr(part, name) for part in parts]) for name in _ONE_BY_ONE)
        strata = [part.strata for part in parts if part.strata is not None]
        pairs = [part.pairs for part in parts if part.pairs is not None]
        return cls(
            square, shift, root, at, np.sum([part.slope for part in parts], axis=0),
            np.concatenate(strata) if strata else None, Pairs.joined(pairs) if pairs else None,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.square)


_ONE_BY_ONE = ("square", "shift", "root", "at")


@dataclass(frozen=True, eq=False)
class Expansion:
    """The images' Gaussian seen from the reference's.

    Args:
        images: of n images.
        offset: mu - mu_r, shape (d,).
        carrier: from c to y in the eigenvectors of M, shape (d, r).
        values: the eigenvalues of M that are more than rounding, shape (r,).
        ridges: x, shape (J,), in steps of ln x.
    """

    images: Gaussian
    offset: Float64
    carrier: Float64
    values: Float64
    ridges: Float64

    @classmethod
    def on(cls, images: Gaussian, reference: Gaussian) -> Self:
        """Raises:
        ValueError: the two are of different numbers of features, or the images are no more than their features: then
            the distance has no such expansion.
        """
        d = images.num_features
        if d != reference.num_features:
            raise ValueError(f"interval: between {d} and {reference.num_features} features there is none")
        if images.count is None or images.count <= d:
            raise ValueError(f"interval: needs more images than the {d} features (got {images.count})")
        factor = covariance_factor(reference)
        values, vectors = np.linalg.eigh(factor.T @ images.covariance @ factor)
        keep = values > d * np.finfo(np.float64).eps * values.max(initial=0.0)
        values = values[keep]
        return cls(images, images.mean - reference.mean, factor @ vectors[:, keep], values, _ridges(values))

    @property
    def count(self) -> int:
        assert self.images.count is not None
        return self.images.count

    def of(self, features: NDArray[np.floating], strata: NDArray[np.int64] | None = None) -> Leverages:
        """Of some of the images.

        Args:
            features: shape (N, d).
            strata: the class that each was asked for, shape (N,), where every class has its share by design. Images of
                one class must be here together: pairs of them are taken from these N.
        """
        c = np.asarray(features, np.float64) - self.images.mean
        y = c @ self.carrier
        weights = np.square(y) / (self.count - 1)
        inverse = 1 / (self.values[:, None] + self.ridges)
        at = np.minimum(weights @ inverse, 1 - 1 / self.count)  # no leverage is more; rounding may be
        slope = (self.ridges * (weights @ np.square(inverse)) / np.square(1 - at)).sum(axis=0)
        pairs = None if strata is None else self._pairs(y, at, inverse, strata)
        root = weights @ (1 / np.sqrt(self.values))
        return Leverages(np.square(c).sum(axis=1), c @ self.offset, root, at, slope, strata, pairs)

    def _pairs(self, y: Float64, at: Float64, inverse: Float64, strata: NDArray[np.int64]) -> Pairs:
        """Neighbours of one class, in their order, each image with the one before it."""
        order = np.argsort(strata, kind="stable")
        same = strata[order][1:] == strata[order][:-1]
        one, other = order[:-1][same], order[1:][same]
        product = y[one] * y[other]
        between = product @ inverse / (self.count - 1) / ((1 - at[one]) * (1 - at[other]))
        root = float((product @ (1 / np.sqrt(self.values))).sum())
        return Pairs(len(one), root, np.square(between).sum(axis=0))

    @property
    def trace_of_root(self) -> float:
        return float(np.sqrt(self.values).sum())

    @property
    def freedom(self) -> Float64:
        """df(x), shape (J,)."""
        return np.asarray((self.values[:, None] / (self.values[:, None] + self.ridges)).sum(axis=0))

    @property
    def freedom_slope(self) -> Float64:
        """-x d df / dx, shape (J,)."""
        ratio = self.values[:, None] / (self.values[:, None] + self.ridges)
        return np.asarray((ratio * (1 - ratio)).sum(axis=0))


def _ridges(values: Float64) -> Float64:
    if len(values) == 0:
        return np.zeros(0)
    return np.asarray(np.exp(np.arange(np.log(values[0]) - _BELOW, np.log(values[-1]) + _ABOVE, STEP)))
