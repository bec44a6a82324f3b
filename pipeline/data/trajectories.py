"""Errors of samples to their converged answers: `trajectories/<samples digest>/<reference's samples digest>/...`.

Small, and kept so that the images themselves need not be.
"""

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from pipeline.data.store import Store
from pipeline.errors import StoreError

ROOT = "trajectories"
_BLOB = "errors.safetensors"


def trajectory_key(samples_digest: str, reference_digest: str, first_seed: int, count: int) -> str:
    return f"{ROOT}/{samples_digest}/{reference_digest}/errors-{first_seed}-{count}"


def commit_errors(
    store: Store, samples_digest: str, reference_digest: str, first_seed: int, errors: NDArray[np.float64]
) -> None:
    """Keeps the errors of consecutive seeds, float64 (N,)."""
    key = trajectory_key(samples_digest, reference_digest, first_seed, len(errors))
    data = safetensors.numpy.save({"errors": np.ascontiguousarray(errors, np.float64)})
    store.commit(key, {_BLOB: data}, {"first_seed": first_seed, "count": len(errors)})


def read_errors(
    store: Store, samples_digest: str, reference_digest: str, first_seed: int, count: int
) -> NDArray[np.float64] | None:
    """The errors of exactly these seeds; None where they are not there, or damaged."""
    try:
        manifest = store.find(trajectory_key(samples_digest, reference_digest, first_seed, count))
        if manifest is None:
            return None
        errors: NDArray[np.float64] = safetensors.numpy.load(store.blob(manifest, _BLOB))["errors"]
    except (StoreError, SafetensorError, KeyError, ValueError):
        return None
    return errors if errors.shape == (count,) else None
