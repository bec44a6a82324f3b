"""The store: whole files or none, commits that verify, one winner; on a local disk and on object storage."""

import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.data.store import Manifest, Store
from pipeline.errors import RunFailedError, StoreError
from tests.object_server import ObjectServer


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return Store(tmp_path / "store")
    server: ObjectServer = request.getfixturevalue("s3")
    return server.store()


@pytest.fixture
def local(tmp_path: Path) -> Store:
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
    key = manifest.blobs["x"].key
    if damage == "remove":
        store.delete(key)
    else:
        store.write(key, b"abcdeg" if damage == "flip" else b"abc")
    with pytest.raises(StoreError):
        store.blob(manifest, "x")


@pytest.mark.parametrize("place", range(0, 400, 7))
def test_a_manifest_with_any_flipped_bit_is_found_or_says_the_same(local: Store, place: int) -> None:
    written = local.commit("s/thing", {"x": b"abc"}, {"answer": [1, 2.5, "three", None]})
    path = Path(local.uri) / "s/thing.json"
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1
    path.write_bytes(data)
    try:
        found = local.find("s/thing")
    except StoreError:
        return
    assert found == written  # white space is not content


def test_what_is_set_aside_is_out_of_sight_and_not_lost(store: Store) -> None:
    store.commit("s/thing", {"x": b"abc"}, {})
    store.set_aside("s/thing")
    assert store.committed("s") == []
    assert len(store.committed("damaged/s")) == 1


def test_what_another_has_set_aside_or_deleted_is_no_error(store: Store) -> None:
    store.set_aside("s/thing")
    store.delete("s/thing")
    assert store.keys("") == []


def test_a_fence_that_falls_before_the_manifest_leaves_nothing(store: Store) -> None:
    store.commit("s/thing", {"x": b"old"}, {})
    before = store.keys("")

    def fence() -> None:
        assert len(store.keys("")) == len(before) + 1  # the new blob is there
        raise RunFailedError("thing", "was taken over")

    with pytest.raises(RunFailedError):
        store.commit("s/thing", {"x": b"new"}, {}, fence)
    assert store.keys("") == before
    assert store.blob(store.manifest("s/thing"), "x") == b"old"


def test_of_many_that_commit_something_new_one_wins_and_the_others_leave_nothing(store: Store) -> None:
    with ThreadPoolExecutor(8) as racers:
        won = list(racers.map(lambda racer: store.commit_new("s/thing", {"x": bytes([racer])}, {}), range(8)))
    assert won.count(True) == 1
    manifest = store.manifest("s/thing")
    assert store.blob(manifest, "x") == bytes([won.index(True)])
    assert store.keys("") == sorted([manifest.blobs["x"].key, "s/thing.json"])


def test_a_removed_commit_leaves_nothing(store: Store) -> None:
    store.remove(store.commit("s/thing", {"x": b"abc"}, {}))
    assert store.keys("s") == []


def test_of_many_that_create_a_key_one_wins(store: Store) -> None:
    start, count = threading.Barrier(8), 50 if store.is_local else 5
    wins: list[tuple[int, int]] = []

    def race(runner: int) -> None:
        for key in range(count):
            start.wait()
            if store.create_if_absent(f"leases/{key}", str(runner).encode()):
                wins.append((key, runner))

    threads = [threading.Thread(target=race, args=(runner,)) for runner in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key for key, _ in wins) == list(range(count))
    assert all(store.read(f"leases/{key}") == str(runner).encode() for key, runner in wins)
    assert store.keys("leases") == sorted(f"leases/{key}" for key in range(count))
    if store.is_local:
        assert not [name for _, _, names in os.walk(store.uri) for name in names if name.startswith(".")]


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(local: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    local.write("s/thing", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        local.write("s/thing", b"new")
    with pytest.raises(StoreError, match="No space left on device"):
        local.commit("s/other", {"x": b"abc"}, {})
    monkeypatch.undo()
    assert local.read("s/thing") == b"old"
    assert [path.name for path in (Path(local.uri) / "s").iterdir()] == ["thing"]


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
