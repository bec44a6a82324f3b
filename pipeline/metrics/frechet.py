"""The Frechet distance of two Gaussians (Dowson and Landau 1982; Heusel et al. 2017, arXiv 1706.08500, Eq. 6).

    |mean_a - mean_b|^2 + Tr(A) + Tr(B) - 2 Tr((A B)^(1/2))

With A = F F^T the eigenvalues of A B are those of the symmetric F^T B F, so the trace of the root needs no root. Where
F is triangular LAPACK makes that product in a third of the operations (`sygst`).
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from scipy.linalg.lapack import dsygst

from pipeline.metrics.moments import Float64, Gaussian


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
    factor_a, factor_b = _cholesky(a), _cholesky(b)
    rank_deficient = _of_too_few(a, factor_a) or _of_too_few(b, factor_b)
    if factor_a is not None and factor_b is not None:
        trace_of_root = _sum_of_roots(_reduced(factor_a, b))
    else:
        factor_a, factor_b = _range(a), _range(b)
        small_a = factor_a.shape[1] <= factor_b.shape[1]
        trace_of_root = _trace_of_root(factor_a, b) if small_a else _trace_of_root(factor_b, a)
    means = np.square(a.mean - b.mean).sum()
    value = means + np.trace(a.covariance) + np.trace(b.covariance) - 2 * trace_of_root
    return Frechet(max(float(value), 0.0), rank_deficient)


def _of_too_few(gaussian: Gaussian, factor: Float64 | None) -> bool:
    return factor is None if gaussian.count is None else gaussian.count <= gaussian.num_features


def covariance_factor(gaussian: Gaussian) -> Float64:
    """F of shape (d, rank) with F F^T = covariance."""
    factor = _cholesky(gaussian)
    return _range(gaussian) if factor is None else factor


def _cholesky(gaussian: Gaussian) -> Float64 | None:
    """The lower triangle L with L L^T = covariance, or None where the covariance is singular to rounding."""
    d = gaussian.num_features
    if gaussian.count is not None and gaussian.count <= d:
        return None
    try:
        lower: Float64 = scipy.linalg.cholesky(gaussian.covariance, lower=True, check_finite=False)
    except scipy.linalg.LinAlgError:
        return None
    pivots = np.square(np.diagonal(lower))
    return lower if pivots.min() > _rounding(d) * pivots.max() else None


def _range(gaussian: Gaussian) -> Float64:
    """F of shape (d, rank) with F F^T = covariance: eigenvalues that are rounding noise, negative ones too, are cut."""
    values, vectors = np.linalg.eigh(gaussian.covariance)
    keep = values > _rounding(len(values)) * max(values[-1], 0.0)
    return np.asarray(vectors[:, keep] * np.sqrt(values[keep]))


def _trace_of_root(factor: Float64, other: Gaussian) -> float:
    if factor.shape[1] == 0:
        return 0.0
    return _sum_of_roots(factor.T @ other.covariance @ factor)


def _reduced(lower: Float64, other: Gaussian) -> Float64:
    """The lower triangle of L^T B L, L a lower triangle. B is symmetric: its transpose is B as Fortran has it."""
    product: Float64 = dsygst(other.covariance.T, lower, itype=2, lower=1)[0]
    return product


def _sum_of_roots(symmetric: Float64) -> float:
    """Of the eigenvalues; the lower triangle is read."""
    values = np.linalg.eigvalsh(symmetric)
    return float(np.sqrt(values.clip(min=0)).sum())


def _rounding(d: int) -> float:
    return d * float(np.finfo(np.float64).eps)
