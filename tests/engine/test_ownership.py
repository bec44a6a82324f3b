"""One training has one process that goes on with it; one that was overtaken finds out before it writes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.data import lease
from pipeline.data.store import Store
from pipeline.engine.training import train
from pipeline.errors import StoreError
from pipeline.reporting import MemoryReporter
from pipeline.training.checkpoint import newest_position
from pipeline.training.loop import train_in_process
from pipeline.training.settings import ModelSettings, Workers
from tests.engine.processes import wait_for
from tests.engine.train_driver import GO, HELD
from tests.training.group import NETWORK, train_in_group
from tests.training.toys import BATCH, make_job, make_settings, state_digests, store_at

STEPS = 4
PATIENCE_S = 600


@contextmanager
def driver(store: Store, num_workers: int, hold: Path | None = None) -> Iterator["subprocess.Popen[str]"]:
    arguments = [store.uri, str(num_workers), str(STEPS), *([str(hold)] if hold else [])]
    command = [sys.executable, "-m", "tests.engine.owner_driver", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def undisturbed(folder: Path, num_workers: int) -> None:
    """What the training must come to."""
    job = make_job(store_at(folder), make_settings(STEPS), NETWORK)
    if num_workers:
        train_in_group(folder, num_workers, job.settings)
    else:
        train_in_process(job.store, job.dataset, job.model, job.settings, job.reporter, job.name)


def contents(store: Store) -> dict[str, bytes]:
    return {key: store.read(key) for key in store.keys("") if not key.startswith("leases/")}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.chaos)])
def test_a_driver_that_was_stopped_is_overtaken_and_changes_nothing_when_it_wakes_up(
    tmp_path: Path, num_workers: int
) -> None:
    """It is stopped at the worst moment: it has just made sure that the training is its own, and saves next."""
    store, hold = store_at(tmp_path), tmp_path / "hold"
    hold.mkdir()
    job = make_job(store, make_settings(STEPS), NETWORK)
    with driver(store, num_workers, hold) as old:
        wait_for((hold / HELD).exists, old)
        assert newest_position(store, job.folder) == BATCH
        old.send_signal(signal.SIGSTOP)
        with driver(store, num_workers) as successor:
            told, _ = successor.communicate(timeout=PATIENCE_S)
        assert successor.returncode == 0, told
        assert f"process {old.pid} on " in told
        assert "has shown no life for 3 s; its place is taken" in told
        assert newest_position(store, job.folder) == STEPS * BATCH
        before = contents(store)
        (hold / GO).touch()
        old.send_signal(signal.SIGCONT)
        told, _ = old.communicate(timeout=PATIENCE_S)
    assert old.returncode == 1
    assert "ended: RunFailedError: trainings/toy-" in told.splitlines()[-1]
    assert f"was taken over by process {successor.pid} on " in told.splitlines()[-1]
    assert contents(store) == before
    undisturbed(tmp_path / "whole", num_workers)
    assert state_digests(store, job.folder) == state_digests(store_at(tmp_path / "whole"), job.folder)


def test_a_second_training_of_the_same_settings_is_refused_in_a_sentence_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.2)
    store = store_at(tmp_path)
    job = make_job(store, make_settings(STEPS), NETWORK)
    with lease.held(store, f"trainings/{job.folder}", print):
        before = contents(store)
        workers = Workers(num_workers=0)
        with pytest.raises(
            StoreError, match=rf"^trainings/{job.folder}: is held by process {os.getpid()} on \S+ since .* at work"
        ):
            train(store, "toy", ModelSettings(network=NETWORK), job.settings, workers, MemoryReporter(), "toy")
        assert contents(store) == before
    train(store, "toy", ModelSettings(network=NETWORK), job.settings, workers, MemoryReporter(), "toy")
    assert newest_position(store, job.folder) == STEPS * BATCH
