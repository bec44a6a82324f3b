import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from pipeline.data.store import Store
from pipeline.engine.session import Resources
from pipeline.engine.training import _check_room, _device, _what_was_lost, train
from pipeline.errors import RunFailedError, SettingsError, StoreError
from pipeline.networks import MLP
from pipeline.reporting import MemoryReporter
from pipeline.training.checkpoint import newest_position
from pipeline.training.job import TrainingResult
from pipeline.training.settings import ModelSettings, Workers
from tests.engine.processes import below, is_running
from tests.engine.train_driver import GO, HELD, WORKER
from tests.training.group import NETWORK, train_in_group
from tests.training.toys import BATCH, make_dataset, make_job, make_settings, state_digests, store_at

STEPS = 4
PATIENCE_S = 200


@contextmanager
def _driver(folder: Path, num_workers: int) -> Iterator[subprocess.Popen[str]]:
    arguments = [sys.executable, "-m", "tests.engine.train_driver", str(folder), str(num_workers), str(STEPS)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _wait(process: subprocess.Popen[str] | None, condition: Callable[[], bool]) -> None:
    """Until the condition holds; the process must live as long."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if process is not None and process.poll() is not None:
            raise AssertionError(f"the driver ended: {process.communicate()[0]}")
        assert time.monotonic() < end, "this takes too long"
        time.sleep(0.05)


@pytest.mark.timeout(600)  # three groups of workers are started, which takes a busy machine a minute each
@pytest.mark.parametrize("num_workers", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_killed_after_its_first_step_first_a_worker_then_the_driver_it_ends_with_the_same_bits(
    tmp_path: Path, num_workers: int
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    job = make_job(store_at(whole), make_settings(STEPS), NETWORK)
    make_job(store_at(killed), make_settings(STEPS), NETWORK)
    with _driver(killed, num_workers) as driver:
        _wait(driver, (killed / HELD).exists)
        assert newest_position(store_at(killed), job.folder) == BATCH
        first = int((killed / HELD).read_text())
        workers = below(driver.pid, WORKER)
        assert len(workers) == num_workers
        other = next(process for process in workers if process != first)
        (killed / HELD).unlink()
        os.kill(other, signal.SIGKILL)
        _wait(driver, lambda: (killed / HELD).exists() and (killed / HELD).read_text() not in ("", str(first)))
        assert newest_position(store_at(killed), job.folder) == BATCH
        orphans = below(driver.pid, WORKER)
        os.kill(driver.pid, signal.SIGKILL)
    _wait(None, lambda: not any(map(is_running, orphans)))
    (killed / GO).touch()
    with _driver(killed, num_workers) as driver:
        output, _ = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 0, output
    assert f"goes on at {BATCH} images" in output
    train_in_group(whole, num_workers, make_settings(STEPS))
    assert state_digests(store_at(killed), job.folder) == state_digests(store_at(whole), job.folder)


def _train(store: Store, workers: Workers, steps: int = 2, **fields: object) -> TrainingResult:
    settings = make_settings(steps, **fields)
    return train(store, "toy", ModelSettings(network=MLP(hidden=8)), settings, workers, MemoryReporter(), "toy")


def test_without_workers_it_runs_in_this_process(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    make_dataset(store)
    result = _train(store, Workers(num_workers=0))
    assert result.num_images == 2 * BATCH
    assert result.snapshots == (f"checkpoints/{result.training}/snapshots/{2 * BATCH:012d}",)


def test_a_training_that_is_done_starts_no_ray(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = store_at(tmp_path)
    make_dataset(store)
    first = _train(store, Workers(num_workers=0))
    assert _train(store, Workers(num_workers=1000)) == first  # which no machine has room for
    assert "is trained already" in capsys.readouterr().out


def test_an_error_of_a_worker_arrives_as_it_was_raised_and_is_not_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = store_at(tmp_path)
    job = make_job(store, make_settings(2), MLP(hidden=8))
    in_the_way = tmp_path / "store" / "checkpoints" / job.folder / "snapshots"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()  # a file where a folder has to be made
    with pytest.raises(StoreError, match="cannot be read or written"):
        _train(store, Workers(num_workers=2, device="cpu"))
    assert "start again" not in capsys.readouterr().out
    assert not list((tmp_path / "store" / "cache" / "ray_train").iterdir())


def test_the_error_raised_on_purpose_is_told_among_those_it_caused() -> None:
    lost = WorkerGroupError("...", {0: RuntimeError("Connection closed by peer\nat ..."), 2: OSError("no")})
    assert _what_was_lost(lost) == "worker 0: Connection closed by peer; worker 2: no"
    assert _what_was_lost(ControllerError(ValueError("too small"))) == "Ray Train: too small"
    ours = RunFailedError("step 3", "the loss is not finite")
    with pytest.raises(RunFailedError, match="step 3: the loss is not finite"):
        _what_was_lost(WorkerGroupError("...", {0: RuntimeError("Connection closed"), 1: ours}))


def test_workers_that_do_not_fit_are_refused_in_a_sentence() -> None:
    here = Resources(cpus=4, gpus=1)
    assert _device(Workers(num_workers=1), here) == "cuda"
    assert _device(Workers(num_workers=0), here) == "cuda"
    assert _device(Workers(num_workers=2), here) == "cpu"
    assert _device(Workers(num_workers=1, device="cpu"), here) == "cpu"
    with pytest.raises(SettingsError, match="cuda needs 2 GPUs and there are 1"):
        _device(Workers(num_workers=2, device="cuda"), here)
    _check_room(Workers(num_workers=2, threads=2), here)
    with pytest.raises(SettingsError, match="3 workers of 2 CPUs need 6; Ray has 4"):
        _check_room(Workers(num_workers=3, threads=2), here)
