"""Copies of checkpoints that lie elsewhere: in another store, in a folder that was exported, or at a tracker.

A copy is a snapshot in a folder of its own, `checkpoints/<training>-<digest>/`: the digest is of its weights and model,
so that the same checkpoint from anywhere is the same copy, and it never mixes with a training of this store.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.data.manifest import Manifest
from pipeline.data.store import Store
from pipeline.digests import digest, sha256
from pipeline.errors import CheckpointError, StoreError
from pipeline.training.importing.own_folder import CONFIG, is_own, read_json
from pipeline.training.importing.recognise import recognise
from pipeline.training.settings import ModelSpec
from pipeline.training.snapshot import (
    COPIED_FROM,
    ROOT,
    CheckpointRef,
    Snapshot,
    blob_name,
    commit_blobs,
    find_snapshot,
    read_weights,
    snapshot_key,
)

WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_DIGITS = 8  # of the digest, in the name of a folder


def weights_digest(weights_sha256: str, model_digest: str) -> str:
    """Equal for equal weights of equal models, wherever they lie."""
    return digest({"weights": weights_sha256, "model": model_digest})


def find_equal(store: Store, training: str, num_images: int, weights_sha256: str, model_digest: str) -> Snapshot | None:
    """The weights of these digests in a store: in the training that they are of, or in a copy. None: not there."""
    wanted = weights_digest(weights_sha256, model_digest)
    for folder in (training, copy_folder(training, wanted)):
        for manifest in _manifests(store, folder, num_images):
            for name in manifest.meta.get("weights", ()):
                if manifest.blobs[blob_name(name)].sha256 != weights_sha256:
                    continue
                model = ModelSpec.model_validate(manifest.meta["model"])
                if digest(model) == model_digest:
                    return Snapshot(manifest, model, folder, num_images, name)
    return None


def copy_folder(training: str, digest_of_weights: str) -> str:
    """Where a copy lies; a copy's copy lies where it does."""
    end = f"-{digest_of_weights[:_DIGITS]}"
    return training if training.endswith(end) else f"{training}{end}"


def name_of(snapshot: Snapshot) -> str:
    """What settings call these weights: the title; without the weights where a copy's are the only ones, since a name
    such as `posthoc-0.1` would be taken for weights to be rebuilt."""
    return f"{snapshot.training}@{snapshot.num_images}" if _is_kept(snapshot) else snapshot.title


def copy_snapshot(source: Store, ref: CheckpointRef, target: Store) -> Snapshot:
    """A snapshot of another store in this one, verified; all sets of weights of it, those that are named first.

    Raises:
        CheckpointError: it is not there, or damaged.
        StoreError: a store cannot be read or written.
    """
    if is_rebuilt(ref.ema):
        problem = f"weights {ref.ema!r} are rebuilt in the store of their training: export or register them there"
        raise CheckpointError(f"{source.title}: {ref.training}", problem)
    snapshot = find_snapshot(source, ref)
    found = find_equal(target, snapshot.training, snapshot.num_images, snapshot.weights_sha256, snapshot.model_digest)
    if found is not None:
        return found
    names: list[str] = [name for name in snapshot.manifest.meta["weights"] if name != snapshot.weights]
    blobs = {blob_name(snapshot.weights): read_weights(source, snapshot)}
    for name in names:
        blobs[blob_name(name)] = source.blob(snapshot.manifest, blob_name(name))
    meta = {**snapshot.manifest.meta, COPIED_FROM: f"{source.title}: {snapshot.title}"}
    return _commit(target, snapshot.training, snapshot.num_images, snapshot.model, blobs, meta)


def copy_exported(folder: Path, target: Store, training: str = "", expected: tuple[str, str] | None = None) -> Snapshot:
    """A folder that `export_folder` wrote in this store, verified.

    Args:
        training: that it is of, where more is known of it than the folder says.
        expected: the sha256 of the first weights and the digest of the model, where they are known.

    Raises:
        CheckpointError: it is no such folder, it is damaged, or not what is expected.
        StoreError: the store cannot be written.
    """
    if not is_own(folder):
        raise CheckpointError(
            folder, "is not a folder that jobs.export_checkpoint wrote; jobs.import_checkpoint reads more"
        )
    found, config = recognise(folder), read_json(folder / CONFIG)
    blobs = {blob_name(name): (folder / blob_name(name)).read_bytes() for name in found.weights}
    first = sha256(next(iter(blobs.values())))
    if expected is not None and (first, digest(found.model)) != expected:
        raise CheckpointError(folder, "is not the checkpoint that was registered: its digests differ; do not use it")
    told = training or str(config.get("training"))
    name = told if WORD.fullmatch(told) else "exported"
    there = find_equal(target, name, found.num_images, first, digest(found.model))
    if there is not None:
        return there
    meta: dict[str, Any] = {"settings": {"kind": "imported", "origin": found.origin}, "dataset": dict(found.dataset)}
    meta[COPIED_FROM] = f"a folder: {found.origin}"
    if found.licence is not None:
        meta["licence"] = found.licence
    return _commit(target, name, found.num_images, found.model, blobs, meta)


def _commit(
    target: Store, training: str, num_images: int, model: ModelSpec, blobs: Mapping[str, bytes], meta: Mapping[str, Any]
) -> Snapshot:  # fmt: skip
    folder = copy_folder(training, weights_digest(sha256(next(iter(blobs.values()))), digest(model)))
    manifest = commit_blobs(target, folder, num_images, model, blobs, meta)
    return Snapshot(manifest, model, folder, num_images, manifest.meta["weights"][0])


def _manifests(store: Store, folder: str, num_images: int) -> Iterator[Manifest]:
    """The snapshot of a moment, and what was rebuilt of it; damaged ones count as missing."""
    rebuilt = store.committed(f"{ROOT}/{folder}/posthoc")
    of_moment = [key for key in rebuilt if key.rpartition("/")[2].startswith(f"{num_images:012d}-")]
    for key in (snapshot_key(folder, num_images), *of_moment):
        try:
            manifest = store.find(key)
        except StoreError:
            continue
        if manifest is not None:
            yield manifest


def is_rebuilt(weights: str | None) -> bool:
    return (weights or "").startswith("posthoc-")


def _is_kept(snapshot: Snapshot) -> bool:
    return is_rebuilt(snapshot.weights) and snapshot.manifest.meta.get("kind") == "snapshot"
