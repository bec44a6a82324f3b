"""Features of samples: `features/<samples digest>/<extractor digest>/chunk-000007`, one file beside each chunk.

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
_BLOB = "features.safetensors"
_MOMENTS = "moments.safetensors"
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
    arrays = {"features": np.ascontiguousarray(features.features, np.float32)}
    if features.logits is not None:
        arrays["logits"] = np.ascontiguousarray(features.logits, np.float32)
    meta = {"content": content, "count": len(features.features), "num_features": features.features.shape[1]}
    key = features_key(samples_digest, extractor_digest, index)
    return store.commit(key, {_BLOB: safetensors.numpy.save(arrays)}, meta)


class KeptMoments(NamedTuple):
    """What was kept instead of features: the bytes of their moments, what else was learnt of them (JSON), and arrays
    with a number for every image, by name."""

    data: bytes
    meta: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = MappingProxyType({})


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
    manifest = store.manifest(features_key(samples_digest, extractor_digest, index))
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
