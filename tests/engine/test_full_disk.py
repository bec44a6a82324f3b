"""A disk that fills up in the middle of a checkpoint, a chunk, a report: one clear error, and nothing good is lost."""

import logging
import time
from pathlib import Path

import pytest

from pipeline.data.store import Store
from pipeline.engine.session import Resources
from pipeline.engine.work import Actors
from pipeline.errors import StoreError
from pipeline.networks import MLP
from pipeline.reporting import MemoryReporter, MemoryRun
from pipeline.tracking.spool import SpoolFolder, SpoolWriter
from pipeline.tracking.spool_reader import SpoolReader
from pipeline.training import checkpoint
from pipeline.training.job import TrainingJob
from pipeline.training.loop import train_in_process
from tests.engine.test_generation import contents as chunks
from tests.engine.test_generation import run
from tests.engine.tiny import tiny_points, tiny_store
from tests.full_disk import fill, free, small_disk
from tests.tracking.test_spool import metric, opened, values
from tests.training.toys import BATCH, make_job, make_settings, state_digests, store_at

NETWORK = MLP(hidden=128, num_layers=1)


class _FillingRun(MemoryRun):
    """The disk fills up before the third checkpoint is saved; half of it still fits."""

    disk: Path
    left: int

    def metrics(self, values: object, step: int = 0) -> None:
        if step == 3 * BATCH and not (self.disk / "filler").exists():
            fill(self.disk, self.left)


class _FillingReporter(MemoryReporter):
    disk: Path
    left: int

    def run(self, key: str, name: str, tags: object) -> MemoryRun:
        run = _FillingRun(key, name)
        run.disk, run.left = self.disk, self.left
        return run


def _train(job: TrainingJob, reporter: MemoryReporter | None = None) -> None:
    train_in_process(job.store, job.dataset, job.model, job.settings, reporter or job.reporter, "toy")


def test_a_training_whose_disk_fills_up_says_so_once_and_goes_on_when_there_is_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = make_job(store_at(tmp_path / "whole"), make_settings(4), NETWORK)
    _train(whole)
    key = whole.store.committed(checkpoint.states_prefix(whole.folder))[-1]
    size = sum(blob.size for blob in whole.store.manifest(key).blobs.values()) // 1024
    with small_disk(tmp_path / "disk", 6 * size) as disk:
        job = make_job(Store(disk / "store"), make_settings(4), NETWORK)
        reporter = _FillingReporter()
        reporter.disk, reporter.left = disk, size // 2
        before = time.monotonic()
        with pytest.raises(StoreError, match=r"states/0+48-.*cannot be read or written \(No space left on device\)"):
            _train(job, reporter)
        assert time.monotonic() - before < 60
        prefix = checkpoint.states_prefix(job.folder)
        assert checkpoint.newest_position(job.store, job.folder) == 2 * BATCH
        assert not [key for key in job.store.keys(prefix) if "/000000000048" in key]  # nothing of it is left
        state = checkpoint.newest(job.store, job.folder, pytest.fail)
        assert state is not None
        assert state.position == 2 * BATCH
        fill(disk)
        with pytest.raises(StoreError, match="No space left on device"):  # and again, as long as it is full
            _train(job)
        free(disk)
        capsys.readouterr()
        _train(job)
        assert f"goes on at {2 * BATCH} images" in capsys.readouterr().out
        assert state_digests(job.store, job.folder) == state_digests(whole.store, whole.folder)


@pytest.mark.chaos
@pytest.mark.parametrize("num_actors", [0, 2])
def test_generation_whose_disk_fills_up_ends_with_one_error_and_goes_on_when_there_is_room(
    tmp_path: Path, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str], num_actors: int
) -> None:
    undisturbed = tiny_store(tmp_path / "undisturbed", 1)
    run(undisturbed, points=tiny_points(1))
    if num_actors:
        _: Resources = request.getfixturevalue("ray_session")
    with small_disk(tmp_path / "disk", 2000) as disk:
        store = tiny_store(disk / "store", 1)
        fill(disk, but_kilobytes=44)  # a chunk has about 11 KB
        before = time.monotonic()
        with pytest.raises(StoreError, match=r"chunk-\d+.*cannot be read or written \(No space left on device\)"):
            run(store, Actors(num_actors=num_actors), points=tiny_points(1))
        assert time.monotonic() - before < 60
        assert "another actor is started" not in capfd.readouterr().err
        there = chunks(store)  # each of them is whole
        assert there.items() <= chunks(undisturbed).items()
        assert 0 < len(there) < 8
        free(disk)
        results = run(store, Actors(num_actors=num_actors), points=tiny_points(1))
        assert sum(result.generated for result in results) == 16 * (8 - len(there))
        assert chunks(store) == chunks(undisturbed)


def test_reports_wait_in_memory_while_the_disk_of_the_spool_is_full_and_arrive_when_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk", 1000) as disk, caplog.at_level(logging.WARNING):
        writer = opened(SpoolWriter(SpoolFolder(disk / "spool")))
        fill(disk)
        slowest = 0.0
        for number in range(3000):
            before = time.monotonic()
            writer.append(metric(number))
            slowest = max(slowest, time.monotonic() - before)
        assert writer.is_behind
        assert [record.getMessage().count("No space left on device") for record in caplog.records] == [1]
        assert slowest < 0.05
        free(disk)
        time.sleep(1.1)  # it is tried once a second
        writer.append(metric(3000))
        assert not writer.is_behind
        assert values(SpoolReader(writer.path)) == list(range(3001))
