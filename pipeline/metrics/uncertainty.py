"""How far a Frechet distance would differ with other images: an interval, by the influence of each image.

A distance of n images is a smooth function of their mean and covariance. To first order, image i moves it by psi_i / n,

    psi_i = 2 (mu - mu_r)^T c_i + c_i^T (I - T) c_i - Tr((I - T) A),      c_i = x_i - mu,

where A and B are the covariances of the images and of the reference, and T the matrix that carries one Gaussian to the
other, T A T = B: with B = F F^T it is F (F^T A F)^(-1/2) F^T. So the variance of the distance is that of psi, by n (the
delta method; Rippl, Munk and Sturm 2016, arXiv 1507.04090).

What the interval is of: the mean distance of n such images, whose bias is in it. It is not the limit of infinitely many
images. The reference counts as it is, the network too. Where both distributions are equal, psi is zero and the second
order, which is left out, is all that there is.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.metrics.frechet import covariance_factor
from pipeline.metrics.moments import Float64, Gaussian

LEVEL = 0.95
_QUANTILE = 1.959963984540054  # of the normal distribution, both sides


@dataclass(frozen=True, eq=False)
class Influence:
    """How the features of one image move the distance of all.

    Args:
        mean: of the images, shape (d,).
        shift: twice the difference of the means, shape (d,).
        curvature: I - T, shape (d, d).
        level: Tr((I - T) A), which makes the mean of the influences zero.
    """

    mean: Float64
    shift: Float64
    curvature: Float64
    level: float

    @classmethod
    def on(cls, images: Gaussian, reference: Gaussian) -> "Influence":
        """The influence on the distance of `images` to `reference`, at the images that were measured.

        Raises:
            ValueError: the two are of different numbers of features, or the images are no more than their features:
                then the distance has no such expansion.
        """
        d = images.num_features
        if d != reference.num_features:
            raise ValueError(f"interval: between {d} and {reference.num_features} features there is none")
        if images.count is None or images.count <= d:
            raise ValueError(f"interval: needs more images than the {d} features (got {images.count})")
        factor = covariance_factor(reference)
        values, vectors = np.linalg.eigh(factor.T @ images.covariance @ factor)
        keep = values > d * np.finfo(np.float64).eps * values.max(initial=0.0)
        carried = factor @ vectors[:, keep]
        curvature = np.eye(d) - (carried / np.sqrt(values[keep])) @ carried.T
        level = float(np.sum(curvature * images.covariance))
        return cls(images.mean, 2 * (images.mean - reference.mean), curvature, level)

    def of(self, features: NDArray[np.floating]) -> Float64:
        """psi for each image, shape (N,), of features of shape (N, d)."""
        c = np.asarray(features, np.float64) - self.mean
        psi: Float64 = c @ self.shift + np.einsum("nd,nd->n", c @ self.curvature, c) - self.level
        return psi


def half_width(influences: Float64) -> float:
    """Half the 95 % interval of a distance, from the influences of all its images.

    Of two settings measured on the same seeds, the difference of the influences gives that of the difference.
    """
    return float(_QUANTILE * np.std(influences, ddof=1) / np.sqrt(len(influences)))
