"""Reference statistics as the paper's authors publish them: an npz file with `mu` (d,) and `sigma` (d, d), float64."""

import zipfile
from pathlib import Path

import numpy as np

from pipeline.errors import DataError
from pipeline.metrics.moments import Float64, Gaussian

SYMMETRY = 1e-6  # of the largest entry: what float32 arithmetic may have left


def read_npz(path: str | Path) -> Gaussian:
    """Reads `mu` and `sigma`; how many images they are of, such a file does not say. Nothing is unpickled.

    Raises:
        DataError: the file is missing, is no such file, or holds numbers that are no mean and covariance.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            gaussian = Gaussian(_float64(arrays["mu"]), _float64(arrays["sigma"]))
    except FileNotFoundError as error:
        raise DataError(path, "is not there") from error
    except KeyError as error:
        raise DataError(path, "has no arrays `mu` and `sigma`, so it holds no reference statistics") from error
    except (ValueError, EOFError, OSError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(path, f"cannot be read as an npz file with `mu` and `sigma` ({error})") from error
    covariance = gaussian.covariance
    if np.abs(covariance - covariance.T).max() > SYMMETRY * np.abs(covariance).max():
        raise DataError(path, "its `sigma` is not symmetric, so it is no covariance")
    return Gaussian(gaussian.mean, (covariance + covariance.T) / 2)


def write_npz(path: str | Path, gaussian: Gaussian) -> None:
    """Writes `mu` and `sigma` in float64, as other programs of the field read them."""
    with Path(path).open("wb") as file:
        np.savez(file, mu=gaussian.mean, sigma=gaussian.covariance)


def _float64(array: object) -> Float64:
    values = np.asarray(array)
    if values.dtype.kind not in "fiu":
        raise ValueError(f"an array of {values.dtype} is not numbers")
    return values.astype(np.float64)
