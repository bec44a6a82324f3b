"""The Frechet distance in the limit of infinitely many images of the model; the reference counts as it is.

A distance of n images is too large by an amount of the order d / n (Chong and Forsyth 2020, arXiv 1911.07023), for
|mu - mu_r|^2 gains Tr A / n, and Tr M^(1/2) loses what this module gives back. Extrapolation in 1/n from fewer images
leaves the orders beyond; random matrix theory sums them. With h_i(x) and df(x) as in `pipeline.metrics.leverage`,
leaving image i out gives q_i = h_i / (1 - h_i), whose sum t(x) is unbiased for that of independent images, and

    omega(x) = df(x) / t(x),        kappa(x) = x / omega(x),        df(x) = Tr P (P + kappa)^(-1),

where P is the M of infinitely many images. With equal leverages omega is 1 - df / n, and this is Silverstein's equation
(Marchenko and Pastur 1967; for distances of covariances Tiomoko and Couillet 2019, arXiv 1903.03447); with omega from
the leverages it holds for images that differ in scale too (El Karoui 2009, elliptical distributions). So

    Tr P^(1/2) = 1/pi int_0^inf kappa^(-1/2) df dkappa = 2/pi int_0^inf (x / omega)^(1/2) (-df'(x)) dx.

Two terms of the order of 1/n remain. With b_i = omega q_i the bias of Tr M^(1/2) is exactly, to that order and for any
distribution, -1/(4 pi) int kappa^(-1/2) (sum_i b_i^2 - Tr (P (P + kappa)^(-1))^2 / n) dkappa. The integral above has
sum b^2 only as far as b_i is a scale of the image times a function of kappa: the difference is added.

Where every class has its share of the images by design, the means of classes are not chance, and the bias is less: in
place of Tr (P (P + kappa)^(-1))^2 stands the mean of (y_i^T (P + kappa)^(-1) y_j)^2 over pairs of one class, and Tr A
is less by the mean of y_i^T M^(-1/2) y_j over these pairs.
"""

from typing import NamedTuple

import numpy as np

from pipeline.metrics.leverage import STEP, Expansion, Leverages, Pairs
from pipeline.metrics.moments import Float64
from pipeline.metrics.uncertainty import Interval, interval


class _Ridges(NamedTuple):
    """Functions of the ridge, each of shape (J,): omega, kappa, d kappa / d ln x, and sum_i b_i^2."""

    omega: Float64
    kappa: Float64
    d_kappa: Float64
    squares: Float64


def limit_interval(distance: float, expansion: Expansion, leverages: Leverages) -> Interval:
    """The distance of infinitely many images, with its 95 % interval. The value is unbiased, so it may be negative
    where the true one is about zero; the interval is not.

    Args:
        distance: of all the images.
        expansion: theirs.
        leverages: of every one of them.

    Raises:
        ValueError: the leverages are not of all images, or too few pairs of one class are among them.
    """
    if len(leverages) != expansion.count:
        raise ValueError(f"limit: needs the leverages of all {expansion.count} images (got {len(leverages)})")
    if leverages.pairs is not None and leverages.pairs.count < len(leverages) / 4:
        raise ValueError(f"limit: needs pairs of images of one class (got {leverages.pairs.count})")
    at = _ridges(expansion, leverages)
    pairs = leverages.pairs
    shared = 0.0 if pairs is None else pairs.root / pairs.count
    mean = (float(np.trace(expansion.images.covariance)) - shared) / expansion.count
    value = distance - mean - 2 * _root_gained(expansion, at, pairs)
    return interval(value, _influences(expansion, leverages, at), leverages.strata).at_least(0.0)


def _ridges(expansion: Expansion, leverages: Leverages) -> _Ridges:
    q = leverages.at / (1 - leverages.at)
    total = q.sum(axis=0)
    omega = expansion.freedom / total
    kappa = expansion.ridges / omega
    d_ln_omega = leverages.slope / total - expansion.freedom_slope / expansion.freedom
    return _Ridges(omega, kappa, kappa * (1 - d_ln_omega), np.square(omega * q).sum(axis=0))


def _root_gained(expansion: Expansion, at: _Ridges, pairs: Pairs | None) -> float:
    """Tr P^(1/2) - Tr M^(1/2)."""
    x, df, slope = expansion.ridges, expansion.freedom, expansion.freedom_slope
    all_orders = 2 * np.sqrt(x) * (at.omega**-0.5 - 1) * slope
    weight = at.d_kappa / np.sqrt(at.kappa)
    any_distribution = weight * at.squares / 4 - np.sqrt(at.kappa) * at.squares / df * slope
    if pairs is None:
        alike = (df - at.kappa * slope / at.d_kappa) / (expansion.count - 1)  # Tr (P (P + kappa)^-1)^2 / n
    else:
        alike = expansion.count * np.square(at.omega) * pairs.at / pairs.count
    real = weight * alike / 4
    return float((all_orders + any_distribution - real).sum() * STEP / np.pi)


def _influences(expansion: Expansion, leverages: Leverages, at: _Ridges) -> Float64:
    """Of the images on the distance in the limit: c_i^T P^(-1/2) c_i by what others say of P. The first order is known
    without a quadrature."""
    n = expansion.count
    weight = at.d_kappa / np.sqrt(at.kappa) * at.omega
    b = leverages.at / (1 - leverages.at) @ weight - leverages.at @ np.sqrt(expansion.ridges)
    root = leverages.root + b * STEP / np.pi
    psi: Float64 = 2 * leverages.shift + leverages.square - (n - 1) * root
    return psi
