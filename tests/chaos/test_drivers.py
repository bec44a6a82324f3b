"""Drivers that are killed: the next one does what is missing, and nothing else."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.data.store import Store
from pipeline.engine.work import Seeds
from tests.chaos.told import telling
from tests.engine.processes import below, is_running, wait_until
from tests.engine.test_generation import DRIVER, HERE, run
from tests.engine.tiny import contents, tiny_points, tiny_store

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1500)]

KILLS = 10
SEEDS = Seeds(0, 240)  # fifteen chunks a point, of four points
STEPS = (30, 40)  # so many that a chunk takes a good part of a second
REPOSITORY = Path(__file__).parents[2]


def chunks_of(store: Store) -> dict[str, bytes]:
    """The manifests of all chunks."""
    return {key: store.read(f"{key}.json") for key in store.committed("samples") if "/chunk-" in key}


def killed_driver(store: Store, more_chunks: int, delay: float) -> None:
    """Starts a driver with two workers and kills it when it has made so many chunks, and a moment has passed."""
    aim = len(chunks_of(store)) + more_chunks
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", DRIVER, store.uri, str(SEEDS.count), *map(str, STEPS)]
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.DEVNULL) as driver:
        wait_until(lambda: len(chunks_of(store)) >= aim or driver.poll() is not None, 300)
        time.sleep(delay)
        assert driver.poll() is None, "it ended before it was killed"
        workers = below(driver.pid, "ray::Actor")
        driver.kill()
    wait_until(lambda: not any(map(is_running, workers)))  # they end on their own, and may commit what they are at


def test_ten_kills_of_the_driver_cost_the_chunks_that_were_at_work_and_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed, store = tiny_store(tmp_path / "undisturbed"), tiny_store(tmp_path / "disturbed")
    points = tiny_points(2, STEPS)
    run(undisturbed, points=points, seeds=SEEDS)
    expected, among = contents(undisturbed), random.Random(3)
    with telling(capsys) as tell:
        for number in range(KILLS):
            before = chunks_of(store)
            killed_driver(store, among.randint(0, 3), among.uniform(0, 0.5))
            there = chunks_of(store)
            assert before.items() <= there.items(), "a chunk that was there was made again"
            assert contents(store).items() <= expected.items()
            tell(f"driver {number + 1} killed: {len(there)} of {len(expected)} chunks")
        results = run(store, HERE, points=points, seeds=SEEDS)
        written = sum(key.endswith(".parquet") for key in store.keys("samples"))
        tell(f"{KILLS} drivers killed: {written - len(expected)} chunks begun in vain, {len(there)} kept")
    assert contents(store) == expected
    assert there.items() <= chunks_of(store).items()
    assert sum(result.generated for result in results) == 16 * (len(expected) - len(there))
    assert written - len(expected) <= 2 * KILLS  # of two workers, what each was at
