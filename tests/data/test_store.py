"""The store: whole files or none, commits that verify, one winner."""

import os
import pickle
import threading
from pathlib import Path

import pytest

from pipeline.data.store import Manifest, Store
from pipeline.errors import StoreError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_what_was_committed_is_read_back(store: Store) -> None:
    store.commit("a/b/thing", {"x.bin": b"abc", "y.bin": b""}, {"answer": 42})
    found = store.find("a/b/thing")
    assert found is not None
    assert found.meta == {"answer": 42}
    assert store.blob(found, "x.bin") == b"abc"
    assert store.blob(found, "y.bin") == b""
    assert store.local_path(found, "x.bin").read_bytes() == b"abc"


def test_what_was_never_committed_is_not_there(store: Store) -> None:
    assert store.find("a/thing") is None
    assert store.committed("a") == []
    with pytest.raises(StoreError, match="is not in the store"):
        store.manifest("a/thing")


def test_one_listing_names_all_commits_and_no_blobs(store: Store) -> None:
    for index in (2, 0, 1):
        store.commit(f"s/chunk-{index}", {"images.parquet": b"x"}, {})
    store.commit("other/chunk-9", {}, {})
    assert store.committed("s") == ["s/chunk-0", "s/chunk-1", "s/chunk-2"]


def test_blobs_without_a_manifest_are_no_commit(store: Store) -> None:
    manifest = store.commit("s/thing", {"x": b"abc"}, {})
    store.delete("s/thing.json")
    assert store.find("s/thing") is None
    assert store.keys("s") == [manifest.blobs["x"].key]


def test_equal_content_written_twice_stays_readable_through_either_manifest(store: Store) -> None:
    first = store.commit("s/thing", {"x": b"abc"}, {})
    second = store.commit("s/thing", {"x": b"abc"}, {})
    assert store.blob(first, "x") == store.blob(second, "x") == b"abc"


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_blob_is_found(store: Store, damage: str) -> None:
    manifest = store.commit("s/thing", {"x": b"abcdef"}, {})
    path = Path(store.uri) / manifest.blobs["x"].key
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(b"abcdeg" if damage == "flip" else b"abc")
    with pytest.raises(StoreError):
        store.blob(manifest, "x")


@pytest.mark.parametrize("place", range(0, 400, 7))
def test_a_manifest_with_any_flipped_bit_is_found_or_says_the_same(store: Store, place: int) -> None:
    written = store.commit("s/thing", {"x": b"abc"}, {"answer": [1, 2.5, "three", None]})
    path = Path(store.uri) / "s/thing.json"
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1
    path.write_bytes(data)
    try:
        found = store.find("s/thing")
    except StoreError:
        return
    assert found == written  # white space is not content


def test_a_manifest_of_another_format_is_refused_by_its_number(store: Store) -> None:
    store.write("s/thing.json", b'{"sha256": "", "format": 99, "key": "s/thing", "blobs": {}, "meta": {}}')
    with pytest.raises(StoreError, match="format 99"):
        store.find("s/thing")


def test_what_is_set_aside_is_out_of_sight_and_not_lost(store: Store) -> None:
    store.commit("s/thing", {"x": b"abc"}, {})
    store.set_aside("s/thing")
    assert store.committed("s") == []
    assert len(store.committed("damaged/s")) == 1


def test_a_removed_commit_leaves_nothing(store: Store) -> None:
    store.remove(store.commit("s/thing", {"x": b"abc"}, {}))
    assert store.keys("s") == []


def test_of_many_that_create_a_key_one_wins(store: Store) -> None:
    start = threading.Barrier(8)
    wins: list[tuple[int, int]] = []

    def race(runner: int) -> None:
        for key in range(50):
            start.wait()
            if store.create_if_absent(f"leases/{key}", str(runner).encode()):
                wins.append((key, runner))

    threads = [threading.Thread(target=race, args=(runner,)) for runner in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key for key, _ in wins) == list(range(50))
    assert all(store.read(f"leases/{key}") == str(runner).encode() for key, runner in wins)
    assert not [name for _, _, names in os.walk(store.uri) for name in names if name.startswith(".")]


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("s/thing", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        store.write("s/thing", b"new")
    with pytest.raises(StoreError, match="No space left on device"):
        store.commit("s/other", {"x": b"abc"}, {})
    monkeypatch.undo()
    assert store.read("s/thing") == b"old"
    assert [path.name for path in (Path(store.uri) / "s").iterdir()] == ["thing"]


def test_a_store_where_a_file_stands_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot be read or written"):
        Store(tmp_path / "file").check_writable()


def test_an_unknown_kind_of_address_is_refused() -> None:
    with pytest.raises(StoreError, match="is not an address of a store"):
        Store("gopher://nowhere/store").keys("")


def test_a_store_and_a_manifest_cross_process_borders(store: Store) -> None:
    manifest = store.commit("s/thing", {"x": b"abc"}, {})
    again: tuple[Store, Manifest] = pickle.loads(pickle.dumps((store, manifest)))
    assert again[0].blob(again[1], "x") == b"abc"
