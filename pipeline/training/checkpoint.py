"""Checkpoints: all that a training needs to go on as if it had never stopped. `checkpoints/<training>/states/<images>`.

They are commits of the store, so a process killed while it writes leaves none. The newest that verifies is taken; one
that does not is set aside. The last two are kept.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from pipeline.data.store import Fence, Manifest, Store, unfenced
from pipeline.errors import CheckpointError, RunFailedError, StoreError
from pipeline.training.snapshot import ROOT, weights_bytes

NUM_KEPT = 2
RAW = "raw"
_SUFFIX = ".safetensors"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Checkpoint:
    """A training at one moment.

    There is no state of random generators in it: all that is drawn is a function of the seed and the position.

    Args:
        position: images seen.
        tensors: by name, each a dictionary of the network's shape: `raw` and `ema-...` weights, and Adam's moments.
        counters: numbers beside them (JSON): updates made, losses that were not finite, the scale of fp16.
        world_size: workers it was written by.
    """

    position: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    counters: Mapping[str, Any]
    world_size: int


def states_prefix(training: str) -> str:
    return f"{ROOT}/{training}/states"


def save(store: Store, training: str, checkpoint: Checkpoint, meta: Mapping[str, Any], fence: Fence = unfenced) -> None:
    """Commits a checkpoint, then removes those before the last two.

    Args:
        meta: what a reader may want to know: settings, data set, versions.
        fence: asked before anything that is there is changed.

    Raises:
        RunFailedError: a number is not finite, see `check_finite`; or the fence falls.
        StoreError: it could not be written.
    """
    check_finite(training, checkpoint)
    blobs = {f"{name}{_SUFFIX}": weights_bytes(tensors) for name, tensors in checkpoint.tensors.items()}
    state = {"position": checkpoint.position, "counters": checkpoint.counters, "world_size": checkpoint.world_size}
    key = f"{states_prefix(training)}/{checkpoint.position:012d}"
    store.commit(key, blobs, {**meta, "kind": "state", **state}, fence)
    fence()
    for key in store.committed(states_prefix(training))[:-NUM_KEPT]:
        try:
            store.remove(store.manifest(key))
        except StoreError:
            store.set_aside(key)


def check_finite(training: str, checkpoint: Checkpoint) -> None:
    """Raises:
    RunFailedError: a weight or a moment is NaN or infinite; to save it would only bring the failure back.
    """
    for name, tensors in checkpoint.tensors.items():
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            moment = f"at {checkpoint.position:,} images"
            raise RunFailedError(training, f"{moment} {name} holds NaN or infinity, so nothing of it was saved")


def newest_position(store: Store, training: str) -> int | None:
    """Images seen at the newest checkpoint, going by names alone; None where there is none."""
    keys = store.committed(states_prefix(training))
    return int(keys[-1].rsplit("/", 1)[1]) if keys else None


def newest(store: Store, training: str, say: Say) -> Checkpoint | None:
    """The newest checkpoint whose every byte is as it was written, or None where there is none.

    Args:
        say: told of each damaged one, which is set aside.

    Raises:
        CheckpointError: it is whole, but not of this program's making.
    """
    _tell_of_unfinished(store, training, say)
    for key in reversed(store.committed(states_prefix(training))):
        try:
            manifest = store.manifest(key)
            blobs = {name: store.blob(manifest, name) for name in manifest.blobs}
        except StoreError as error:
            say(f"a checkpoint is damaged and set aside, the one before it is tried ({error})")
            store.set_aside(key)
            continue
        return _checkpoint(manifest, blobs)
    return None


def _tell_of_unfinished(store: Store, training: str, say: Say) -> None:
    """Files newer than any manifest: of an attempt that was cut off, or whose manifest is gone."""
    names = [key.rpartition("/")[2] for key in store.keys(states_prefix(training))]
    whole = max((name for name in names if name.endswith(".json")), default="")
    begun = max((name.partition("-")[0] for name in names if not name.endswith(".json")), default="")
    if begun > whole.removesuffix(".json"):
        say(f"the checkpoint at {int(begun):,} images has no manifest, so it counts as never finished")


def _checkpoint(manifest: Manifest, blobs: Mapping[str, bytes]) -> Checkpoint:
    try:
        tensors = {name.removesuffix(_SUFFIX): safetensors.torch.load(data) for name, data in blobs.items()}
        meta = manifest.meta
        return Checkpoint(meta["position"], tensors, meta["counters"], meta["world_size"])
    except (KeyError, TypeError, safetensors.SafetensorError) as error:
        raise CheckpointError(manifest.key, f"is not a checkpoint that this version knows ({error})") from error


def versions() -> dict[str, str]:
    """What wrote it, for people who look for a difference."""
    return {"torch": torch.__version__}
