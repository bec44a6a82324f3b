"""Leases: one owner at a time, whoever is killed, stopped or slow; and an old owner is told before it writes."""

import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.data import lease
from pipeline.data.lease import Lease, acquire, held
from pipeline.data.store import Store
from pipeline.errors import RunFailedError, SigmasweepError, StoreError
from tests.object_server import ObjectServer

NAME = "trainings/toy"
# Holds the lease, and asks every 50 ms whether it still does. What it finds is its last line.
HOLDER = """
import sys, time
from pipeline.data import lease
from pipeline.data.store import Store
from pipeline.errors import SigmasweepError
lease.BEAT_S, lease.PATIENCE_S = 0.2, 2.0
try:
    with lease.held(Store(sys.argv[1]), sys.argv[2], print) as mine:
        print("holds term", mine.term, flush=True)
        while True:
            mine.check()
            time.sleep(0.05)
except SigmasweepError as error:
    print("ended:", error, flush=True)
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.2)
    monkeypatch.setattr(lease, "PATIENCE_S", 2.0)
    monkeypatch.setattr(lease, "_GLANCE_S", 0.1)


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.chaos)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "local":
        return Store(tmp_path / "store")
    server: ObjectServer = request.getfixturevalue("s3")
    return server.store()


@contextmanager
def holder(store: Store) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds the lease."""
    command = [sys.executable, "-c", HOLDER, store.uri, NAME]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds term 1\n"
        try:
            yield process
        finally:
            process.kill()


def _take(store: Store, told: list[str] | None = None) -> Lease:
    return acquire(store, NAME, (told if told is not None else []).append)


def test_a_lease_that_is_free_is_had_at_once_and_by_the_next_after_its_release(store: Store) -> None:
    told: list[str] = []
    with held(store, NAME, told.append) as first:
        first.check()
    with held(store, NAME, told.append) as second:
        second.check()
        assert (first.term, second.term) == (1, 2)
        with pytest.raises(RunFailedError, match=rf"trainings/toy: was taken over by process {os.getpid()} on "):
            first.check()
    assert told == []
    assert store.keys("leases") == ["leases/trainings/toy/000000000002"]  # those before it are gone


def test_a_holder_that_shows_life_keeps_it_and_is_named_to_whoever_wants_it(store: Store) -> None:
    told: list[str] = []
    with holder(store) as process:
        started = time.monotonic()
        with pytest.raises(
            StoreError, match=rf"toy: is held by process {process.pid} on \S+ since 20\d\d-.* which is at work"
        ):
            _take(store, told)
        assert time.monotonic() - started < lease.PATIENCE_S
    assert len(told) == 1
    assert "waits up to 2 s to see whether it lives" in told[0]


def test_a_process_of_this_machine_that_was_killed_is_noticed_at_once(store: Store) -> None:
    with holder(store) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    told: list[str] = []
    started = time.monotonic()
    assert _take(store, told).term == 2
    assert time.monotonic() - started < 1.5
    assert told == [f"trainings/toy: {told[0].split(': ')[1].split(' is gone')[0]} is gone; its place is taken"]


def test_a_process_that_was_stopped_finds_that_it_is_old_when_it_wakes_up(store: Store) -> None:
    told: list[str] = []
    with holder(store) as process:
        process.send_signal(signal.SIGSTOP)
        successor = _take(store, told)
        assert successor.term == 2
        assert "has shown no life for 2 s" in told[-1]
        before = {key: store.read(key) for key in store.keys("") if not key.endswith("-beat")}
        process.send_signal(signal.SIGCONT)
        output, _ = process.communicate(timeout=30)
        assert f"ended: trainings/toy: was taken over by process {os.getpid()} on " in output
        assert f"this one (process {process.pid} on " in output
    successor.check()
    assert {key: store.read(key) for key in store.keys("") if not key.endswith("-beat")} == before


def test_a_holder_of_another_machine_is_waited_for(store: Store) -> None:
    first = _take(store)
    elsewhere = dataclasses.replace(first.holder, machine="another", pid=2**22 + 1)
    store.write("leases/trainings/toy/000000000001", lease.to_bytes(elsewhere))
    started = time.monotonic()
    assert _take(store).term == 2
    assert time.monotonic() - started >= lease.PATIENCE_S


def test_a_process_id_that_was_given_out_again_is_not_the_holder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = _take(store)
    assert not first.holder.is_gone
    store.write("leases/trainings/toy/000000000001", lease.to_bytes(dataclasses.replace(first.holder, started="1")))
    started = time.monotonic()
    assert _take(store).term == 2
    assert time.monotonic() - started < 1


def test_of_many_that_want_it_one_has_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "PATIENCE_S", 30.0)  # a busy machine may keep a holder from its beat for two seconds
    with ThreadPoolExecutor(6) as racers:

        def race(_: int) -> Lease | str:
            try:
                with held(store, NAME, lambda line: None) as mine:
                    time.sleep(3)  # longer than any other waits
                    mine.check()
                    return mine
            except SigmasweepError as error:
                return str(error)

        found = list(racers.map(race, range(6)))
    assert [isinstance(one, Lease) for one in found].count(True) == 1
    assert all("is held by" in one for one in found if isinstance(one, str))


def test_a_lease_that_was_just_begun_is_not_taken_for_one_that_was_let_go(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long its holder is held up after it was given the term."""
    create = type(store).create_if_absent

    def slow(self: Store, key: str, data: bytes) -> bool:
        made = create(self, key, data)
        time.sleep(0.5)
        return made

    monkeypatch.setattr(type(store), "create_if_absent", slow)
    with ThreadPoolExecutor(1) as other:

        def hold() -> None:
            with held(store, NAME, lambda line: None) as mine:
                time.sleep(2)
                mine.check()

        first = other.submit(hold)
        while "leases/trainings/toy/000000000001" not in store.keys("leases"):  # before, it may still be had
            time.sleep(0.01)
        with pytest.raises(StoreError, match="which is at work"):
            _take(store)
        first.result()


def test_who_slept_between_looking_and_taking_takes_nothing(store: Store) -> None:
    """Its term has been and gone: it makes the file of term 1 anew, and sees the later one."""
    first = _take(store)
    first.release()
    slow = dataclasses.replace(first, holder=lease.this_process())
    for _ in range(2):
        with held(store, NAME, lambda line: None) as newest:
            pass
    assert newest.term > 1
    before = store.keys("leases")
    assert not lease.claim(slow)
    assert store.keys("leases") == before


def test_who_slept_while_it_removed_those_before_it_removes_no_later_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = dataclasses.replace(_take(store), term=2, holder=lease.this_process())
    listing = type(store).keys
    later = "leases/trainings/toy/000000000003"

    def sleep(self: Store, prefix: str) -> list[str]:
        found = listing(self, prefix)
        if "leases/trainings/toy/000000000002" in found:  # it has seen that its term is the newest
            self.write(later, lease.to_bytes(slow.holder))
        return found

    monkeypatch.setattr(type(store), "keys", sleep)
    lease.claim(slow)
    monkeypatch.undo()
    assert later in store.keys("leases")
    with pytest.raises(RunFailedError, match="was taken over"):
        slow.check()


def test_a_damaged_note_of_who_holds_it_is_no_reason_to_stop_and_none_to_take_over(store: Store) -> None:
    with held(store, NAME, lambda line: None) as mine:
        store.write("leases/trainings/toy/000000000001", b"\x00damaged")
        mine.check()
        with pytest.raises(StoreError, match="is held by another process, which is at work"):
            _take(store)


def test_a_lease_goes_to_workers(store: Store) -> None:
    mine = _take(store)
    check = pickle.loads(pickle.dumps(mine.check))
    check()
    mine.release()
    _take(store)
    with pytest.raises(RunFailedError, match="is old and stops"):
        check()
