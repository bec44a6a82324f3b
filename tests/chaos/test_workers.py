"""Workers of a benchmark that are killed: the same images and numbers, nothing missing, nothing doubled."""

import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.features import committed_features
from pipeline.data.samples import committed_chunks
from pipeline.data.store import Store
from pipeline.engine.benchmark import benchmark
from pipeline.engine.benchmark_result import BenchmarkResult
from pipeline.engine.generation import generate
from pipeline.engine.measures import Measure
from pipeline.engine.references import Reference, reference_moments
from pipeline.engine.session import Resources
from pipeline.engine.timing import time_points
from pipeline.engine.work import Actors, Seeds
from pipeline.errors import RunFailedError
from pipeline.metrics.moments import Moments
from pipeline.reporting import MemoryReporter
from tests.chaos.told import telling
from tests.engine.processes import below, meanwhile, wait_until
from tests.engine.test_generation import Deadly
from tests.engine.tiny import EXECUTION, MODEL, classifier_plan, contents, tiny_points, tiny_store
from tests.training.toys import make_dataset

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

KILLS = 20
POINTS = tiny_points(2, (20, 24, 28, 32))  # a chunk takes a good part of a second
SEEDS = Seeds(0, 128)  # eight chunks a point
NUM_CHUNKS = 64


def measured(store: Store, actors: Actors) -> tuple[BenchmarkResult, MemoryReporter]:
    features = np.random.default_rng(0).normal(size=(50, 6))
    reference = Reference(Moments.of(features).gaussian(), "0" * 32, 50, "noise", MODEL.shape)
    measure, reporter = Measure("classifier", classifier_plan(), reference), MemoryReporter()
    return benchmark(store, "chaos", POINTS, SEEDS, [measure], EXECUTION, actors, reporter, progress=False), reporter


WORKER = "ray::MomentsWorker"  # and the method that it is at; nobody sees that one which starts was stopped


def kill_one_of(title: str, among: random.Random, how: signal.Signals = signal.SIGKILL) -> int:
    """Kills, or stops, one of this process's Ray workers, waiting for one to be there."""
    while True:
        victim = among.choice(wait_until(lambda: below(os.getpid(), title)))
        with suppress(ProcessLookupError):
            os.kill(victim, how)
            return int(victim)


def test_twenty_kills_of_workers_change_no_image_and_no_number(
    tmp_path: Path, ray_session: Resources, capsys: pytest.CaptureFixture[str]
) -> None:
    undisturbed, disturbed = tiny_store(tmp_path / "undisturbed"), tiny_store(tmp_path / "disturbed")
    expected, _ = measured(undisturbed, Actors(num_actors=0))
    among = random.Random(0)
    moments = sorted(among.randrange(1, NUM_CHUNKS - 14) for _ in range(KILLS))

    def kill() -> None:
        for moment in moments:  # of which some are one: then it is a worker that has just been started
            wait_until(lambda least=moment: len(contents_seen(disturbed)) >= least, 600)  # type: ignore[misc]
            time.sleep(among.uniform(0, 0.5))
            kill_one_of("ray::Actor", among)

    with telling(capsys) as tell:
        with meanwhile(kill):
            found, reporter = measured(disturbed, Actors(num_actors=2))
        written = [key for key in disturbed.keys("samples") if key.endswith(".parquet")]
        tell(f"{KILLS} kills of workers; {NUM_CHUNKS} chunks, {len(written) - NUM_CHUNKS} written twice")
    assert contents(disturbed) == contents(undisturbed)
    assert found.rows == expected.rows
    assert len({row.distance for row in found.rows}) == len(POINTS)  # there is something to compare
    assert found.generated == NUM_CHUNKS * EXECUTION.chunk_size
    assert len(reporter.runs) == len(POINTS)
    for row in found.rows:
        assert committed_chunks(disturbed, row.samples_digest) == set(range(8))
        assert committed_features(disturbed, row.samples_digest, classifier_plan().digest) == set(range(8))


def contents_seen(store: Store) -> list[str]:
    return [key for key in store.committed("samples") if "/chunk-" in key]


def test_a_chunk_that_kills_its_worker_each_time_is_named_soon_and_all_others_are_done(
    tmp_path: Path, ray_session: Resources, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tiny_store(tmp_path)
    bad = replace(POINTS[0], name="bad", labels=Deadly())  # type: ignore[arg-type]
    with telling(capsys) as tell:
        with pytest.raises(
            RunFailedError, match=r"^bad: chunk 1 \(seeds 16 to 31\) lost each of the [56] workers"
        ) as caught:
            generate(store, [bad, *POINTS], SEEDS, EXECUTION, Actors(num_actors=2), progress=False)
        tell(f"a chunk that kills its workers: {caught.value}")
    assert len(contents(store)) >= NUM_CHUNKS
    assert "\n" not in str(caught.value)


def test_a_worker_that_is_killed_while_it_times_a_setting_times_it_again(
    tmp_path: Path, ray_session: Resources
) -> None:
    store, among = tiny_store(tmp_path, 1), random.Random(1)

    def kill() -> None:
        for _ in range(2):
            time.sleep(0.2)
            kill_one_of("ray::Actor.seconds", among)

    point = POINTS[0]
    with meanwhile(kill):
        [timing] = time_points(store, [point], EXECUTION, Actors(num_actors=1), repeats=300, progress=False)
    assert len(timing.repeats) == 300
    assert len(store.committed("timings")) == 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_workers_that_are_killed_or_stopped_while_they_take_a_reference_change_no_bit_of_it(
    tmp_path: Path, ray_session: Resources, how: signal.Signals
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9000, *MODEL.shape), dtype=np.uint8)
    stores = [Store(tmp_path / name) for name in ("undisturbed", "disturbed")]
    datasets = [make_dataset(store, images=images) for store in stores]
    expected = reference_moments(stores[0], datasets[0], classifier_plan(), EXECUTION, progress=False)
    among = random.Random(2)

    def kill() -> None:
        for _ in range(3):
            kill_one_of(WORKER if how == signal.SIGKILL else f"{WORKER}.moments", among, how)
            time.sleep(0.5)

    with meanwhile(kill):
        actors = Actors(num_actors=2, hang_after_s=3)
        found = reference_moments(stores[1], datasets[1], classifier_plan(), EXECUTION, actors, progress=False)
    assert np.array_equal(found.gaussian.mean, expected.gaussian.mean)
    assert np.array_equal(found.gaussian.covariance, expected.gaussian.covariance)
