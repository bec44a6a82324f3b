"""Features of samples: `features/<samples digest>/<extractor digest>/chunk-000007`, one file beside each chunk.
Those of a reference: `references/<data set digest>/<extractor digest>/chunk-000007`.

A file is safetensors: `features`, float32 (C, d), and `logits`, float32 (C, k), where the extractor knows the classes.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from pipeline.data.samples import chunk_indices, spans
from pipeline.data.store import Manifest, Store
from pipeline.errors import StoreError

ROOT = "features"
REFERENCES = "references"
_BLOB = "features.safetensors"
_MOMENTS = "moments.safetensors"
_IMAGES = "images.safetensors"
_BY_IMAGE = "by-image.safetensors"


class StoredFeatures(NamedTuple):
    """Features of n images, float32 (n, d), and logits, float32 (n, k), where the extractor has any."""

    features: NDArray[np.float32]
    logits: NDArray[np.float32] | None


def features_key(samples_digest: str, extractor_digest: str, index: int) -> str:
    return f"{ROOT}/{samples_digest}/{extractor_digest}/chunk-{index:06d}"


def commit_features(
    store: Store, samples_digest: str, extractor_digest: str, index: int, features: StoredFeatures, content: str
) -> Manifest:
    """Writes the features of one chunk.

    Args:
        content: the content digest of the chunk that they were taken from.
    """
    return _commit(store, features_key(samples_digest, extractor_digest, index), features, content)


def _commit(store: Store, key: str, features: StoredFeatures, content: str) -> Manifest:
    arrays = {"features": np.ascontiguousarray(features.features, np.float32)}
    if features.logits is not None:
        arrays["logits"] = np.ascontiguousarray(features.logits, np.float32)
    meta = {"content": content, "count": len(features.features), "num_features": features.features.shape[1]}
    return store.commit(key, {_BLOB: safetensors.numpy.save(arrays)}, meta)


def reference_features_key(dataset_digest: str, extractor_digest: str, index: int) -> str:
    return f"{REFERENCES}/{dataset_digest}/{extractor_digest}/chunk-{index:06d}"


def commit_reference_features(
    store: Store, dataset_digest: str, extractor_digest: str, index: int, features: StoredFeatures
) -> None:
    """Writes the features of one chunk of a data set's images, in the order of the data set."""
    _commit(store, reference_features_key(dataset_digest, extractor_digest, index), features, dataset_digest)


def committed_reference_features(store: Store, dataset_digest: str, extractor_digest: str) -> set[int]:
    """The indices of the chunks of a reference whose features are there, by one listing."""
    return chunk_indices(store.committed(f"{REFERENCES}/{dataset_digest}/{extractor_digest}"))


def read_reference_features(store: Store, dataset_digest: str, extractor_digest: str, index: int) -> StoredFeatures:
    """The verified features of one chunk of a reference.

    Raises:
        StoreError: they are not there, or are damaged.
    """
    return _read(store, reference_features_key(dataset_digest, extractor_digest, index))


class KeptMoments(NamedTuple):
    """What was kept instead of features: the bytes of their moments, what else was learnt of them (JSON), and arrays
    with a number for every image, by name."""

    data: bytes
    meta: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = MappingProxyType({})


def prepared_key(dataset_digest: str, extractor_digest: str, name: str) -> str:
    """Where it is kept what a score computes of a reference alone."""
    return f"{REFERENCES}/{dataset_digest}/{extractor_digest}/prepared-{name}"


class KeptScore(NamedTuple):
    """What a score told, JSON, and uint8 arrays of images by name, where it shows any."""

    meta: Mapping[str, Any]
    images: Mapping[str, NDArray[np.uint8]]


def score_key(samples_digest: str, extractor_digest: str, name: str) -> str:
    return f"{ROOT}/{samples_digest}/{extractor_digest}/{name}"


def commit_score(store: Store, samples_digest: str, extractor_digest: str, name: str, kept: KeptScore) -> None:
    """Keeps what a score told of the features of some seeds; the name says which score, seeds and reference."""
    images = {key: np.ascontiguousarray(pixels) for key, pixels in kept.images.items()}
    blobs = {_IMAGES: safetensors.numpy.save(images)} if images else {}
    store.commit(score_key(samples_digest, extractor_digest, name), blobs, kept.meta)


def read_score(store: Store, samples_digest: str, extractor_digest: str, name: str) -> KeptScore | None:
    """What was kept, verified; None where nothing is there, or it is damaged."""
    try:
        manifest = store.find(score_key(samples_digest, extractor_digest, name))
        if manifest is None:
            return None
        images = safetensors.numpy.load(store.blob(manifest, _IMAGES)) if manifest.blobs else {}
        return KeptScore(manifest.meta, images)
    except (StoreError, SafetensorError):
        return None


def moments_key(samples_digest: str, extractor_digest: str, first_seed: int, count: int) -> str:
    return f"{ROOT}/{samples_digest}/{extractor_digest}/moments-{first_seed}-{count}"


def commit_moments(
    store: Store, samples_digest: str, extractor_digest: str, first_seed: int, count: int, kept: KeptMoments
) -> None:
    """Keeps the moments of the features of the seeds [first_seed, first_seed + count)."""
    meta = {**kept.meta, "first_seed": first_seed, "count": count}
    blobs = {_MOMENTS: kept.data}
    if kept.arrays:
        blobs[_BY_IMAGE] = safetensors.numpy.save(dict(kept.arrays))
    store.commit(moments_key(samples_digest, extractor_digest, first_seed, count), blobs, meta)


def has_moments(store: Store, samples_digest: str, extractor_digest: str, first_seed: int, count: int) -> bool:
    return read_moments(store, samples_digest, extractor_digest, first_seed, count) is not None


def read_moments(
    store: Store, samples_digest: str, extractor_digest: str, first_seed: int, count: int
) -> KeptMoments | None:
    """The verified moments of exactly these seeds; None where there are none, or they are damaged."""
    try:
        manifest = store.find(moments_key(samples_digest, extractor_digest, first_seed, count))
        if manifest is None:
            return None
        by_image = safetensors.numpy.load(store.blob(manifest, _BY_IMAGE)) if _BY_IMAGE in manifest.blobs else {}
        return KeptMoments(store.blob(manifest, _MOMENTS), manifest.meta, by_image)
    except (StoreError, SafetensorError):
        return None


def committed_features(store: Store, samples_digest: str, extractor_digest: str) -> set[int]:
    """The indices of the chunks whose features are there, by one listing."""
    return chunk_indices(store.committed(f"{ROOT}/{samples_digest}/{extractor_digest}"))


def verify_features(store: Store, samples_digest: str, extractor_digest: str, index: int) -> None:
    """Raises:
    StoreError: the features of this chunk are not there, or are damaged.
    """
    store.blob(store.manifest(features_key(samples_digest, extractor_digest, index)), _BLOB)


def read_chunk_features(store: Store, samples_digest: str, extractor_digest: str, index: int) -> StoredFeatures:
    """The verified features of one chunk.

    Raises:
        StoreError: they are not there, or are damaged.
    """
    return _read(store, features_key(samples_digest, extractor_digest, index))


def _read(store: Store, key: str) -> StoredFeatures:
    manifest = store.manifest(key)
    data = store.blob(manifest, _BLOB)
    try:
        arrays = safetensors.numpy.load(data)
        found = StoredFeatures(arrays["features"], arrays.get("logits"))
    except (SafetensorError, KeyError, ValueError) as error:
        raise StoreError(manifest.key, f"is damaged: it holds no features ({error})") from error
    if found.features.ndim != 2 or len(found.features) != manifest.meta.get("count"):
        raise StoreError(manifest.key, f"is damaged: its features have the shape {found.features.shape}")
    return found


def read_features(
    store: Store, samples_digest: str, extractor_digest: str, first_seed: int, count: int, chunk_size: int
) -> StoredFeatures:
    """The features of the seeds [first_seed, first_seed + count), count > 0.

    Raises:
        StoreError: some of them are not there, or are damaged.
    """
    parts, logits = [], []
    for index, part in spans(first_seed, count, chunk_size):
        chunk = read_chunk_features(store, samples_digest, extractor_digest, index)
        parts.append(chunk.features[part])
        if chunk.logits is not None:
            logits.append(chunk.logits[part])
    return StoredFeatures(np.concatenate(parts), np.concatenate(logits) if logits else None)
