"""Writers that race for the same keys, as processes of their own: of a thousand keys, each has one winner."""

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.store import Store
from tests.object_server import ObjectServer

KEYS = 1000
Try = tuple[bool, float, float]  # whether it won, and from when to when it tried


def _race(store: Store, start: Any, found: Any) -> None:
    store.create_if_absent(f"ready/{os.getpid()}", b"")  # whatever is set up once is
    tries: list[Try] = []
    for key in range(KEYS):
        start.wait()  # for each key, else the faster one has them all
        before = time.monotonic()
        won = store.create_if_absent(f"raced/{key:06d}", str(os.getpid()).encode())
        tries.append((won, before, time.monotonic()))
    found.put((os.getpid(), tries))


@pytest.mark.chaos
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("where", ["local", "s3"])
def test_two_processes_that_race_for_a_thousand_keys_share_them_out(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if where == "local":
        store = Store(tmp_path)
    else:
        server: ObjectServer = request.getfixturevalue("s3")
        store = server.store()
    context = multiprocessing.get_context("spawn")
    start, found = context.Barrier(2), context.Queue()
    racers = [context.Process(target=_race, args=(store, start, found)) for _ in range(2)]
    for racer in racers:
        racer.start()
    tries: dict[int, list[Try]] = dict(found.get(timeout=1000) for _ in racers)
    for racer in racers:
        racer.join()
    (one, first), (other, second) = tries.items()
    together = 0
    for key in range(KEYS):
        assert first[key][0] != second[key][0], f"key {key} has {first[key][0] + second[key][0]} winners"
        assert store.read(f"raced/{key:06d}") == str(one if first[key][0] else other).encode()
        together += first[key][1] < second[key][2] and second[key][1] < first[key][2]
    wins = sum(won for won, _, _ in first)
    print(f"\n{where}: {KEYS} keys, {wins} and {KEYS - wins} won, {together} tried by both at the same moment")
    assert together > KEYS / 5
