"""The cheap metric on a network whose trajectories are known in closed form."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pipeline.config.measuring import MetricSettings, TrajectorySettings
from pipeline.data.samples import Execution
from pipeline.data.store import Store
from pipeline.data.trajectories import ROOT
from pipeline.diffusion.labels import Balanced
from pipeline.diffusion.sampling import Sampler
from pipeline.diffusion.solvers import Euler, EulerAncestral, Heun
from pipeline.diffusion.stochasticity import Churn
from pipeline.diffusion.timesteps import EDMSteps, NoiseLevels, grid
from pipeline.engine.benchmark import benchmark
from pipeline.engine.benchmark_result import BenchmarkResult
from pipeline.engine.generation import Seeds, generate
from pipeline.engine.measures import build_measures
from pipeline.engine.trajectories import converge
from pipeline.engine.work import Actors, Point
from pipeline.metrics.trajectory import FLOOR
from pipeline.reporting import MemoryReporter
from pipeline.training.snapshot import CheckpointRef
from tests.engine.gaussian import STD, put_data, put_extractor, put_network

EXECUTION, HERE = Execution(batch_size=50, chunk_size=100), Actors(num_actors=0)
SEEDS = Seeds(0, 200)
CHEAP = TrajectorySettings(num_seeds=150)
REF = CheckpointRef("gaussian")


def point(name: str, **sampler: object) -> Point:
    return Point(name, REF, Sampler(**sampler), Balanced())  # type: ignore[arg-type]


POINTS = [
    *(point(f"euler-{n}", timesteps=EDMSteps(num_steps=n), solver=Euler()) for n in (4, 8, 16, 32)),
    point("heun-8", timesteps=EDMSteps(num_steps=8), solver=Heun()),
    point("churn", timesteps=EDMSteps(num_steps=8), stochasticity=Churn(S_churn=10)),
    point("ancestral", timesteps=EDMSteps(num_steps=8), solver=EulerAncestral()),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store"))
    put_network(store)
    put_data(store)
    return store


@pytest.fixture(scope="module")
def told(store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[BenchmarkResult, MemoryReporter]:
    metrics = MetricSettings(extractors=[put_extractor(tmp_path_factory.mktemp("extractor"))])
    measures = build_measures(store, metrics, "gaussian", EXECUTION, HERE, progress=False)
    reporter = MemoryReporter()
    result = benchmark(
        store, "cheap", POINTS, SEEDS, measures, EXECUTION, HERE, reporter, progress=False, trajectory=CHEAP
    )
    return result, reporter


def euler_gain(num_steps: int) -> float:
    """What Euler's method multiplies noise of unit variance by: each step takes (x - D) / sigma."""
    sigmas = grid(EDMSteps(num_steps=num_steps), NoiseLevels()).tolist()
    gain = sigmas[0]
    for sigma, after in pairwise(sigmas):
        gain *= 1 + (after - sigma) * sigma / (STD**2 + sigma**2)
    return gain


def exact_gain() -> float:
    """Of the flow itself, from EDM's highest level: sqrt(s^2 + sigma^2) goes to s."""
    return 80.0 * STD / (STD**2 + 80.0**2) ** 0.5


def test_the_rmse_is_the_difference_of_the_gains(told: tuple[BenchmarkResult, MemoryReporter]) -> None:
    rows = {row.name: row for row in told[0].rows}
    for num_steps in (4, 8, 16, 32):
        found = rows[f"euler-{num_steps}"].trajectory
        assert found is not None
        expected = ((euler_gain(num_steps) - exact_gain()) ** 2 + FLOOR**2) ** 0.5  # and rounding
        assert found.rmse == pytest.approx(expected, rel=0.05)
        assert found.count == 150


def test_where_noise_is_added_there_is_none_and_the_table_says_so(
    told: tuple[BenchmarkResult, MemoryReporter],
) -> None:
    result, reporter = told
    assert {row.name for row in result.rows if row.trajectory is None} == {"churn", "ancestral"}
    runs = {run.name: {key for _, key, _ in run.history} for run in reporter.runs.values()}
    assert "trajectory_rmse" not in runs["churn"]
    assert {"trajectory_rmse", "trajectory_rmse_low", "trajectory_p90"} <= runs["euler-8"]
    table = result.table()
    assert "none where noise is added" in table
    assert "Kendall's tau" in table


def test_it_ranks_as_the_distance_does_where_the_network_is_perfect(
    told: tuple[BenchmarkResult, MemoryReporter],
) -> None:
    rows = [row for row in told[0].rows if row.name.startswith("euler")]
    by_rmse = sorted(rows, key=lambda row: row.trajectory.rmse if row.trajectory else np.inf)
    assert [row.name for row in by_rmse] == ["euler-32", "euler-16", "euler-8", "euler-4"]


def test_errors_are_kept_and_one_reference_serves_all_settings(
    store: Store, told: tuple[BenchmarkResult, MemoryReporter]
) -> None:
    assert len(store.committed(ROOT)) == 5
    assert len({key.split("/")[2] for key in store.committed(ROOT)}) == 1
    again = converge(store, POINTS, CHEAP, SEEDS, EXECUTION, HERE, progress=False)
    assert len(again.digests) == 1
    results = generate(store, POINTS, SEEDS, EXECUTION, HERE, progress=False)
    assert again.images_needed(POINTS, [result.samples_digest for result in results]) == 0
    assert again.evaluations % 150 == 0
    assert 100 < again.evaluations / 150 < 200


def test_a_reference_that_adds_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="must be deterministic, or nothing converges"):
        TrajectorySettings(solver=EulerAncestral())


def test_a_damaged_error_file_is_computed_again(
    store: Store, told: tuple[BenchmarkResult, MemoryReporter], tmp_path: Path
) -> None:
    converged = converge(store, POINTS[:1], CHEAP, SEEDS, EXECUTION, HERE, progress=False)
    [result] = generate(store, POINTS[:1], SEEDS, EXECUTION, HERE, progress=False)
    before = converged.error_of(result.point, result.samples_digest)
    [key] = store.committed(f"{ROOT}/{result.samples_digest}")
    store.write(next(iter(store.manifest(key).blobs.values())).key, b"spoilt")
    assert converged.error_of(result.point, result.samples_digest) == before
