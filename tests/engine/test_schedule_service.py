"""The service with real processes that are killed, on a clock that runs ten times as fast."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.data.store import Store
from pipeline.engine import slots
from pipeline.engine.slot_history import history
from tests.engine.fast_schedule import SPEED, TIMES
from tests.engine.processes import below, wait_until


def serve(store: Path, begin: float) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "tests.engine.fast_schedule", "serve", str(store), str(begin)],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background ignores it
    )


def at_work(store: Store) -> bool:
    ledger = slots.read_ledger(store, "fast")
    return bool(ledger.begun - ledger.outcomes)


@pytest.mark.slow
def test_each_slot_has_one_outcome_though_service_and_slot_are_killed(tmp_path: Path) -> None:
    folder, begin = tmp_path / "store", time.time()
    store = Store(folder)
    service = serve(folder, begin)
    try:
        wait_until(lambda: at_work(store), 60)
        os.kill(service.pid, signal.SIGKILL)
        service.wait()
        service = serve(folder, begin)
        wait_until(lambda: len(slots.read_ledger(store, "fast").outcomes) >= 2, 60)
        wait_until(lambda: below(service.pid, "fire") and at_work(store), 60)
        for process in below(service.pid, "fast_schedule")[1:]:
            os.kill(process, signal.SIGKILL)
        known = len(slots.read_ledger(store, "fast").outcomes)
        wait_until(lambda: len(slots.read_ledger(store, "fast").outcomes) >= known + 3, 90)
    finally:
        service.send_signal(signal.SIGINT)
        try:
            service.wait(60)
        finally:
            service.kill()
    ledger = slots.read_ledger(store, "fast")
    last, first = max(ledger.outcomes), min(ledger.outcomes)
    assert ledger.since is not None
    due = TIMES.between(ledger.since, last)
    assert sorted(ledger.outcomes) == due
    assert first - ledger.since <= timedelta(minutes=1)
    entries = Counter(entry.slot for entry in history(store, "fast"))
    assert set(entries.values()) == {1}
    done = sum(entry.state == "done" for entry in history(store, "fast"))
    work = Counter((tmp_path / "work").read_text().split())
    assert done >= 3
    assert len(work) >= done
    assert last < datetime.fromtimestamp(begin + SPEED * (time.time() - begin), UTC)
