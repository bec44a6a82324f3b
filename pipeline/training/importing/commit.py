"""A recognised checkpoint as a snapshot in the store."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipeline.data.store import Store
from pipeline.digests import digest, sha256
from pipeline.errors import StoreError
from pipeline.training.importing.found import Found
from pipeline.training.snapshot import commit_snapshot, snapshot_key, weights_bytes


def commit_import(
    store: Store, name: str, found: Found, licence: str,
    dataset: Mapping[str, Any] | None = None, num_images: int | None = None,
) -> str:  # fmt: skip
    """Writes a snapshot that `find_snapshot` finds under `name`; once, where the same was imported before.

    Args:
        name: under which the store keeps it, as it keeps a training.
        licence: of the weights, as it will be shown with everything that is made with them.
        dataset: `name` and `digest` of what it was trained on, in the place of what was found.
        num_images: images seen in training, in the place of what was found.

    Returns:
        Its folder under `checkpoints/`: the name and the first digits of a digest of model and weights.
    """
    if dataset is not None:
        found = replace(found, dataset=dataset)
    if num_images is not None:
        found = replace(found, num_images=num_images)
    contents = {key: sha256(weights_bytes(state)) for key, state in found.weights.items()}
    folder = f"{name}-{digest({'imported': contents, 'model': found.model})[:8]}"
    meta = {
        "settings": {"kind": "imported", "origin": found.origin},
        "dataset": dict(found.dataset),
        "licence": licence,
    }
    if not _is_there(store, snapshot_key(folder, found.num_images), meta):
        commit_snapshot(store, folder, found.num_images, found.model, found.weights, meta)
    return folder


def _is_there(store: Store, key: str, meta: Mapping[str, Any]) -> bool:
    """Whether the same was written before: the name says that the weights are the same, not what is said of them."""
    try:
        manifest = store.find(key)
    except StoreError:  # damaged: written again
        return False
    return manifest is not None and all(manifest.meta.get(name) == value for name, value in meta.items())
