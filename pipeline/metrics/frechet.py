"""The Frechet distance of two Gaussians (Dowson and Landau 1982; Heusel et al. 2017, arXiv 1706.08500, Eq. 6).

    |mean_a - mean_b|^2 + Tr(A) + Tr(B) - 2 Tr((A B)^(1/2))

With A = F F^T the eigenvalues of A B are those of the symmetric F^T B F, so the trace of the root needs no root. Where
F is triangular LAPACK makes that product in a third of the operations (`sygst`).
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from scipy.linalg.lapack import dsygst

from pipeline.metrics.moments import Float64, Gaussian, rounding


@dataclass(frozen=True)
class Frechet:
    """A distance, squared and in the units of the features.

    Args:
        value: never negative.
        rank_deficient: a covariance is of no more images than features, or is singular and nobody knows of how many.
            The value is then that of a Gaussian on a subspace, and far too dependent on the number of images. (A
            covariance of enough images may be singular too, where a feature never varies: that is as it should be.)
    """

    value: float
    rank_deficient: bool


def frechet_distance(a: Gaussian, b: Gaussian) -> Frechet:
    """The Frechet distance, in float64.

    Raises:
        ValueError: the two are of different numbers of features.
    """
    if a.num_features != b.num_features:
        raise ValueError(f"distance: between {a.num_features} and {b.num_features} features there is none")
    means = np.square(a.mean - b.mean).sum()
    value = means + np.trace(a.covariance) + np.trace(b.covariance) - 2 * _trace_of_root(a, b)
    return Frechet(max(float(value), 0.0), a.of_too_few or b.of_too_few)


def covariance_factor(gaussian: Gaussian) -> Float64:
    """F of shape (d, rank) with F F^T = covariance."""
    return _range(gaussian) if gaussian.cholesky is None else gaussian.cholesky


def _trace_of_root(a: Gaussian, b: Gaussian) -> float:
    """By the triangle of b, which many distances are to. Of n images no more than n - 1 eigenvalues are not zero; where
    all of those stand out from rounding, the others are nothing but that. Whether a is singular is asked only where the
    product alone does not tell."""
    d = a.num_features
    if b.cholesky is not None:
        rank = d if a.count is None else min(max(a.count - 1, 1), d)
        values = _eigenvalues(_reduced(b.cholesky, a))[d - rank :]
        if values[0] > rounding(d) * values[-1] or a.cholesky is not None:
            return _sum_of_roots(values)
    factors = _range(a), _range(b)
    factor, other = (factors[0], b) if factors[0].shape[1] <= factors[1].shape[1] else (factors[1], a)
    return _sum_of_roots(_eigenvalues(factor.T @ other.covariance @ factor)) if factor.shape[1] else 0.0


def _range(gaussian: Gaussian) -> Float64:
    """F of shape (d, rank) with F F^T = covariance: eigenvalues that are rounding noise, negative ones too, are cut."""
    values, vectors = np.linalg.eigh(gaussian.covariance)
    keep = values > rounding(len(values)) * max(values[-1], 0.0)
    return np.asarray(vectors[:, keep] * np.sqrt(values[keep]))


def _reduced(lower: Float64, other: Gaussian) -> Float64:
    """The lower triangle of L^T B L, L a lower triangle. B is symmetric: its transpose is B as Fortran has it."""
    product: Float64 = dsygst(other.covariance.T, lower, itype=2, lower=1)[0]
    return product


def _eigenvalues(symmetric: Float64) -> Float64:
    """Ascending; the lower triangle is read, and the matrix is lost."""
    values: Float64 = scipy.linalg.eigh(
        symmetric, lower=True, eigvals_only=True, overwrite_a=True, check_finite=False, driver="evr"
    )
    return values


def _sum_of_roots(eigenvalues: Float64) -> float:
    return float(np.sqrt(eigenvalues.clip(min=0)).sum())
