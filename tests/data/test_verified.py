"""What is vouched for is not read again; whatever happens to a file ends that."""

import os
import time
from pathlib import Path

import pytest

from pipeline.data import verified
from pipeline.data.store import Store
from pipeline.data.verified import Verified
from pipeline.errors import StoreError


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    for number in range(3):
        store.commit(f"samples/a/chunk-00000{number}", {"images": b"pixels" * 100}, {})
    return store


def vouch(store: Store, *keys: str) -> None:
    found = Verified(store, "samples/a")
    for key in keys or found.commits():
        found.add(key, {"nfe": 9})
    found.save()


def known(store: Store) -> list[str]:
    found = Verified(store, "samples/a")
    return [key for key in found.commits() if found.find(key) == {"nfe": 9}]


def blob(store: Store, number: int) -> Path:
    return Path(store.uri) / store.manifest(f"samples/a/chunk-00000{number}").blobs["images"].key


KEYS = [f"samples/a/chunk-00000{number}" for number in range(3)]


def test_what_was_verified_is_known_to_the_next_process_and_nothing_else(store: Store) -> None:
    assert known(store) == []
    vouch(store, *KEYS[:2])
    assert known(store) == KEYS[:2]
    assert Verified(store, "samples/a").commits() == KEYS
    assert Verified(store, "samples").find(KEYS[0]) is None  # another folder knows nothing


def test_a_file_that_was_written_cut_off_or_removed_is_read_again(store: Store) -> None:
    vouch(store)
    data = bytearray(blob(store, 0).read_bytes())
    data[7] ^= 1
    with blob(store, 0).open("r+b") as file:  # in place: the same inode, the same size
        file.write(data)
    os.truncate(blob(store, 1), 10)
    blob(store, 2).unlink()
    assert known(store) == []


def test_a_manifest_that_was_written_anew_is_read_again(store: Store) -> None:
    vouch(store)
    store.commit(KEYS[1], {"images": b"pixels" * 100}, {})
    assert known(store) == [KEYS[0], KEYS[2]]


def test_trust_ends_after_a_week(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    vouch(store)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 6 * 24 * 3600)
    assert known(store) == KEYS
    monkeypatch.setattr(time, "time", lambda: now + 8 * 24 * 3600)
    assert known(store) == []


def test_damage_that_left_size_and_time_as_they_were_ends_all_trust_when_it_is_read(store: Store) -> None:
    """As a disk that loses bits."""
    vouch(store)
    path, before = blob(store, 1), blob(store, 1).stat()
    path.write_bytes(b"pixelz" * 100)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert known(store) == KEYS
    with pytest.raises(StoreError, match="is damaged"):
        store.blob(store.manifest(KEYS[1]), "images")
    assert known(store) == []


def test_another_store_vouches_for_nothing(store: Store, tmp_path: Path) -> None:
    vouch(store)
    copy = Store(tmp_path / "copy")
    for file in store.files("samples"):
        copy.write(file.key, store.read(file.key))
    assert known(copy) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2, "commits": {}}', '{"format": 1, "commits": 3}'])
def test_notes_that_cannot_be_read_are_as_none(store: Store, text: str) -> None:
    vouch(store)
    folder = verified._folder(store.uri)
    assert folder is not None
    for path in folder.iterdir():
        path.write_text(text)
    assert known(store) == []
