"""Features in the store, beside the samples that they were taken from."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.data.features import (
    StoredFeatures,
    commit_features,
    committed_features,
    features_key,
    read_chunk_features,
    read_features,
    verify_features,
)
from pipeline.data.store import Store
from pipeline.errors import StoreError

C = 4


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def features(index: int, logits: bool = True) -> StoredFeatures:
    random = np.random.default_rng(index)
    return StoredFeatures(
        random.normal(size=(C, 3)).astype(np.float32),
        random.normal(size=(C, 10)).astype(np.float32) if logits else None,
    )


@pytest.mark.parametrize("logits", [True, False])
def test_features_come_back_as_they_were(store: Store, logits: bool) -> None:
    commit_features(store, "samples", "extractor", 5, features(5, logits), "content")
    found = read_chunk_features(store, "samples", "extractor", 5)
    assert np.array_equal(found.features, features(5).features)
    assert found.features.dtype == np.float32
    assert (found.logits is None) == (not logits)
    if found.logits is not None:
        assert np.array_equal(found.logits, features(5).logits)  # type: ignore[arg-type]


def test_any_range_of_seeds_is_a_view_on_whole_chunks(store: Store) -> None:
    for index in range(3):
        commit_features(store, "samples", "extractor", index, features(index), "content")
    whole = np.concatenate([features(index).features for index in range(3)])
    for first, count in [(0, 12), (3, 2), (5, 6)]:
        found = read_features(store, "samples", "extractor", first, count, C)
        assert np.array_equal(found.features, whole[first : first + count])
        assert found.logits is not None
        assert found.logits.shape == (count, 10)


def test_extractors_and_samples_are_kept_apart(store: Store) -> None:
    commit_features(store, "samples", "one", 0, features(0), "content")
    commit_features(store, "samples", "two", 1, features(1), "content")
    assert committed_features(store, "samples", "one") == {0}
    assert committed_features(store, "samples", "two") == {1}
    assert committed_features(store, "others", "one") == set()


def test_missing_features_are_named(store: Store) -> None:
    commit_features(store, "samples", "extractor", 0, features(0), "content")
    with pytest.raises(StoreError, match=r"chunk-000001: is not in the store"):
        read_features(store, "samples", "extractor", 0, 5, C)


def test_damaged_features_are_found(store: Store) -> None:
    manifest = commit_features(store, "samples", "extractor", 0, features(0), "content")
    blob = manifest.blobs["features.safetensors"].key
    data = bytearray(store.read(blob))
    data[-1] ^= 1
    store.write(blob, bytes(data))
    with pytest.raises(StoreError, match="damaged"):
        verify_features(store, "samples", "extractor", 0)
    with pytest.raises(StoreError, match="damaged"):
        read_features(store, "samples", "extractor", 0, C, C)


def test_what_is_no_features_file_is_refused(store: Store) -> None:
    store.commit(features_key("samples", "extractor", 0), {"features.safetensors": b"no"}, {"count": C})
    with pytest.raises(StoreError, match="holds no features"):
        read_chunk_features(store, "samples", "extractor", 0)
