import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.training.checkpoint import newest_position
from tests.engine.train_driver import GO, HELD
from tests.training.group import NETWORK, train_in_group
from tests.training.toys import BATCH, make_job, make_settings, state_digests, store_at

STEPS = 4
PATIENCE_S = 120


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


def _wait(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError(f"the driver ended or hangs: {process.communicate()[0]}")
        time.sleep(0.05)


def _workers(driver: int) -> list[int]:
    """Process ids of the training's workers: those below the driver that Ray gave that name, by its children's lines."""
    parents, names = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(path.name)] = (path / "cmdline").read_text()
        except OSError:
            continue  # it has ended meanwhile
    below = {driver}
    while grown := {child for child, parent in parents.items() if parent in below} - below:
        below |= grown
    return sorted(process for process in below if "RayTrainWorker" in names[process])


@pytest.mark.parametrize("num_workers", [2, 3])
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
        workers = _workers(driver.pid)
        assert len(workers) == num_workers
        other = next(process for process in workers if process != first)
        (killed / HELD).unlink()
        os.kill(other, signal.SIGKILL)
        _wait(driver, lambda: (killed / HELD).exists() and (killed / HELD).read_text() not in ("", str(first)))
        assert newest_position(store_at(killed), job.folder) == BATCH
        os.kill(driver.pid, signal.SIGKILL)
    (killed / GO).touch()
    with _driver(killed, num_workers) as driver:
        output, _ = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 0, output
    assert f"goes on at {BATCH} images" in output
    train_in_group(whole, num_workers, make_settings(STEPS))
    assert state_digests(store_at(killed), job.folder) == state_digests(store_at(whole), job.folder)
