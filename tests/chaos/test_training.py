"""Workers and drivers of a training that are killed, and workers that stop without an error."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from tests.chaos.paced_training import INTERVAL, STEPS, settings
from tests.chaos.told import telling
from tests.engine.processes import below, is_running, wait_until
from tests.engine.train_driver import WORKER
from tests.training.group import NETWORK, train_in_group
from tests.training.toys import BATCH, make_job, state_digests, store_at

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1500)]

RANKS = 2
PATIENCE_S = 300  # for a group of workers to start on a busy machine


@dataclass
class Training:
    """A training on two workers in a folder of its own."""

    folder: Path
    steps: int
    timeout_s: float = 60

    def __post_init__(self) -> None:
        self.job = make_job(store_at(self.folder), settings(self.steps), NETWORK)

    @contextmanager
    def driver(self) -> Iterator[subprocess.Popen[str]]:
        words = [str(self.folder), str(RANKS), str(self.steps), str(self.timeout_s)]
        command = [sys.executable, "-m", "tests.chaos.paced_training", *words]
        with (self.folder / "said").open("a") as said:
            process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, text=True)
        workers: list[int] = []
        try:
            yield process
        finally:
            workers = below(process.pid, WORKER)
            process.kill()
            process.wait()
            wait_until(lambda: not any(map(is_running, workers)))

    def said(self) -> str:
        return (self.folder / "said").read_text()

    def lives(self) -> list[list[int]]:
        """The positions after the steps of each group of workers, in order."""
        path = self.folder / STEPS
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        found: dict[str, list[int]] = {}
        for process, position in lines:
            found.setdefault(process, []).append(int(position))
        return list(found.values())

    def first_worker(self) -> int:
        return int((self.folder / STEPS).read_text().split()[-2])

    def wait_for(self, driver: subprocess.Popen[str], lives: int, step: int) -> None:
        """Until the group of this number has made a step of at least this number."""

        def is_there() -> bool:
            assert driver.poll() is None, self.said()[-3000:]
            found = self.lives()
            return len(found) >= lives and found[-1][-1] >= step * BATCH

        wait_until(is_there, PATIENCE_S)

    def rank(self, driver: subprocess.Popen[str], rank: int) -> int:
        """The process of a rank."""
        first = self.first_worker()
        return first if rank == 0 else next(pid for pid in below(driver.pid, WORKER) if pid != first)

    def assert_ends_as_if_undisturbed(self, num_lives: int) -> list[int]:
        """Returns the steps that each fault cost. Workers may outlive a killed driver until Ray ends them: those of the
        last one may come to the end of the training, and leave the next driver nothing to do."""
        lives = self.lives()
        is_done = lives[num_lives - 2][-1] == self.steps * BATCH
        assert len(lives) == num_lives - is_done
        lost = [(before[-1] - (after[0] - BATCH)) // BATCH for before, after in pairwise(lives)]
        assert all(0 <= steps <= INTERVAL for steps in lost), lost
        whole = self.folder.with_name("undisturbed")
        whole.mkdir()
        train_in_group(whole, RANKS, settings(self.steps))
        digests = [state_digests(store_at(folder), self.job.folder) for folder in (self.folder, whole)]
        assert digests[0] == digests[1]
        return lost


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "disturbed").mkdir()
    return tmp_path / "disturbed"


def test_each_rank_is_killed_five_times_and_the_driver_five_times(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training, among = Training(folder, steps=170), random.Random(4)
    whom = [0, 1] * 5
    among.shuffle(whom)
    moments = [5 + 10 * number + among.randrange(6) for number in range(15)]
    with telling(capsys) as tell:
        with training.driver() as driver:
            for number, rank in enumerate(whom):
                training.wait_for(driver, number + 1, moments[number])
                os.kill(training.rank(driver, rank), signal.SIGKILL)
                tell(f"rank {rank} killed at step {moments[number]}")
            training.wait_for(driver, 11, moments[10])
        tell(f"driver killed at step {moments[10]}")
        for number in range(11, 15):
            with training.driver() as driver:
                training.wait_for(driver, number + 1, moments[number])
            tell(f"driver killed at step {moments[number]}")
        with training.driver() as driver:
            assert driver.wait(PATIENCE_S) == 0, training.said()[-3000:]
        lost = training.assert_ends_as_if_undisturbed(num_lives=16)
        tell(f"15 kills lost {sum(lost)} steps, at most {max(lost)} each; a checkpoint every {INTERVAL}")


@pytest.mark.parametrize("rank", range(RANKS))
def test_a_rank_that_stops_without_a_word_costs_the_timeout_and_no_more_than_a_minute(
    folder: Path, rank: int, capsys: pytest.CaptureFixture[str]
) -> None:
    training = Training(folder, steps=40, timeout_s=15)
    with telling(capsys) as tell, training.driver() as driver:
        training.wait_for(driver, 1, 10)
        stopped = training.rank(driver, rank)
        os.kill(stopped, signal.SIGSTOP)
        start = time.monotonic()
        try:
            training.wait_for(driver, 2, 1)
        finally:
            seconds = time.monotonic() - start
            if is_there := is_running(stopped):
                os.kill(stopped, signal.SIGKILL)
        tell(f"rank {rank} stopped: the training went on after {seconds:.0f} s, with a timeout of 15 s")
        assert seconds < 15 + 60
        assert not is_there, "the worker that stopped was left behind"
        assert driver.wait(PATIENCE_S) == 0, training.said()[-3000:]
    training.assert_ends_as_if_undisturbed(num_lives=2)
